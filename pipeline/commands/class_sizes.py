"""``score --by``: the scores by the size of the query's class, in the gallery or in training."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from cache.atomic import replace_text
from cache.errors import ConfigError
from pipeline.config import RunConfig
from pipeline.views.tables import aligned
from stages.analysis import by_class_size
from stages.analysis.class_size import gallery_sizes, training_sizes
from stages.records import Records
from stages.retrieval.query_values import read_query_values

By = Literal["class_size", "training_class_size"]


def check_by(by: Sequence[str]) -> None:
    """ConfigError unless ``by`` names what scores can be told by."""
    for name in by:
        if name not in get_args(By):
            raise ConfigError(f"--by is one of {', '.join(get_args(By))}, got {name!r}")


def group_lines(config: RunConfig, name: str, records: Records, by: Sequence[str]) -> list[dict[str, Any]]:
    """A flat object for each of ``by``, group and metric of every head of the last scores; kept beside them too."""
    folder = Path(config.artifacts) / "scores"
    values = read_query_values(folder / f"{name}.parquet")
    queries = records.split("query")
    lines: list[dict[str, Any]] = []
    for name in by:
        in_gallery = name == "class_size"
        other = records.split("gallery" if in_gallery else "train")
        sizes = (gallery_sizes if in_gallery else training_sizes)(queries, other)
        for backbone, head in values.heads():
            columns = {"backbone": backbone, "head": head, "by": name}
            for metric_values in values.of(backbone, head):
                groups = by_class_size(metric_values, sizes)
                lines += [columns | group._asdict() for group in groups]
    if by:
        replace_text(folder / f"{name}.groups.jsonl", "".join(json_module.dumps(line) + "\n" for line in lines))
    return lines


def group_table(lines: Sequence[dict[str, Any]]) -> str:
    """A table for each of what scores are grouped by: a line a head and group, a column a metric."""
    tables = []
    for by in dict.fromkeys(line["by"] for line in lines):
        part = [line for line in lines if line["by"] == by]
        metrics = list(dict.fromkeys(line["metric"] for line in part))
        cells: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
        for line in part:
            cells.setdefault((line["backbone"], line["head"], line["group"]), {})[line["metric"]] = line
        table = [["backbone", "head", "images", *metrics, "queries", "classes"]]
        for place, by_metric in cells.items():
            numbers = [
                f"{by_metric[metric]['value']:.3f} ±{(by_metric[metric]['high'] - by_metric[metric]['low']) / 2:.3f}"
                if metric in by_metric
                else "-"
                for metric in metrics
            ]
            first = next(iter(by_metric.values()))
            table.append([*place, *numbers, f"{first['queries']:,}", f"{first['classes']:,}"])
        where = "in the gallery, itself not counted" if by == "class_size" else "that heads were trained on"
        tables += [f"by the number of images of the query's class {where}", *aligned(table, texts=3), ""]
    return "\n".join(tables).rstrip()
