"""What ``gallery-sizes`` prints: a score for each size of the gallery, as JSON lines and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.vectors import Vectors
from pipeline.views.tables import aligned, interval_text
from stages.analysis import SizeCurve


def curve_lines(curve: SizeCurve, vectors: Vectors) -> list[dict[str, Any]]:
    """A flat object for each size, domain and metric."""
    return [
        {"backbone": vectors.backbone, "head": vectors.head, "size": at.size, "sampled": at.sampled,
         "distractors": at.distractors, "searched": at.searched, "domain": at.score.domain,
         "metric": at.score.metric, "value": at.score.value,
         "low": at.score.low, "high": at.score.high, "floor": at.floor, "ceiling": at.ceiling,
         "queries": at.score.queries, "embeddings": vectors.store.fingerprint}
        for at in curve.scores
    ]  # fmt: skip


def curve_table(lines: Sequence[dict[str, Any]]) -> str:
    """A line for each backbone, head, domain and size; a column for each metric."""
    metrics = list(dict.fromkeys(line["metric"] for line in lines))
    cells: dict[tuple[str, str, str, int], dict[str, dict[str, Any]]] = {}
    for line in lines:
        place = line["backbone"], line["head"], line["domain"], line["sampled"]
        cells.setdefault(place, {})[line["metric"]] = line
    table = [["backbone", "head", "domain", "distractors", "searched", *metrics]]
    for (backbone, head, domain, _), by_metric in sorted(cells.items(), key=lambda cell: _place(cell[0], lines)):
        numbers = [interval_text(line) for line in by_metric.values()]
        one = next(iter(by_metric.values()))
        table.append([backbone, head, domain, f"{one['distractors']:,.0f}", f"{one['searched']:,.0f}", *numbers])
    notes = [
        "every query keeps its relevant rows; distractors are sampled, those of a smaller gallery all in the larger,",
        "and counted in the mean over queries; [95 % interval over classes]",
    ]
    return "\n".join([*aligned(table, texts=3), *notes])


def _place(cell: tuple[str, str, str, int], lines: Sequence[dict[str, Any]]) -> tuple[int, int, int]:
    """Heads and domains in the order of the lines, sizes ascending."""
    heads = list(dict.fromkeys((line["backbone"], line["head"]) for line in lines))
    domains = list(dict.fromkeys(line["domain"] for line in lines))
    return heads.index(cell[:2]), domains.index(cell[2]), cell[3]
