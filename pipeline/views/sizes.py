"""Scores by size: of the gallery (``gallery-sizes``), and of the query's class (``score --by``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.vectors import Vectors
from pipeline.views.tables import aligned, interval_text
from stages.analysis import SizeCurve


def curve_lines(curve: SizeCurve, vectors: Vectors) -> list[dict[str, Any]]:
    """A flat object for each size, domain and metric."""
    return [
        {"backbone": vectors.backbone, "head": vectors.head, "size": at.size, "sampled": at.sampled,
         "distractors": at.distractors, "searched": at.searched, "domain": at.score.domain, "metric": at.score.metric,
         "value": at.score.value,
         "low": at.score.low, "high": at.score.high, "floor": at.floor, "ceiling": at.ceiling,
         "queries": at.score.queries, "embeddings": vectors.store.fingerprint}
        for at in curve.scores
    ]  # fmt: skip


def curve_table(lines: Sequence[dict[str, Any]]) -> str:
    """A line for each backbone, head, domain and size; a column for each metric."""
    heads = list(dict.fromkeys((line["backbone"], line["head"]) for line in lines))
    domains = list(dict.fromkeys(line["domain"] for line in lines))

    def place(line: dict[str, Any]) -> tuple[int, ...]:
        return heads.index((line["backbone"], line["head"])), domains.index(line["domain"]), line["sampled"]

    columns = {name: name for name in ("backbone", "head", "domain", "distractors", "searched")}
    notes = [
        "every query keeps its relevant rows; distractors are sampled, those of a smaller gallery all in the larger,",
        "and counted in the mean over queries; [95 % interval over classes]",
    ]
    return "\n".join([*_by_metric(sorted(lines, key=place), columns, ()), *notes])


def group_table(lines: Sequence[dict[str, Any]]) -> str:
    """A table for each of what scores are grouped by: a line a head and group, a column a metric."""
    tables = []
    for by in dict.fromkeys(line["by"] for line in lines):
        part = [line for line in lines if line["by"] == by]
        where = "in the gallery, itself not counted" if by == "class_size" else "that heads were trained on"
        where += "; [95 % interval over classes]"
        columns = {"backbone": "backbone", "head": "head", "images": "group"}
        title = f"by the number of images of the query's class {where}"
        tables += [title, *_by_metric(part, columns, ("queries", "classes")), ""]
    return "\n".join(tables).rstrip()


def _by_metric(lines: Sequence[dict[str, Any]], columns: Mapping[str, str], counts: Sequence[str]) -> list[str]:
    """A row for each place: the keys ``columns`` of the lines, by title, each metric with its interval."""
    cells: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for line in lines:
        cells.setdefault(tuple(_cell(line[key]) for key in columns.values()), {})[line["metric"]] = line
    metrics = list(dict.fromkeys(line["metric"] for line in lines))
    table = [[*columns, *metrics, *counts]]
    for place, by_metric in cells.items():
        first = next(iter(by_metric.values()))
        scores = [interval_text(by_metric[metric]) if metric in by_metric else "-" for metric in metrics]
        table.append([*place, *scores, *(_cell(first[key]) for key in counts)])
    return aligned(table, texts=3)


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:,.0f}"
