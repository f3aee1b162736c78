"""What ``score --by`` prints: a table of scores by the size of the query's class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.views.tables import aligned, interval_text


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
            numbers = [interval_text(by_metric[metric]) if metric in by_metric else "-" for metric in metrics]
            first = next(iter(by_metric.values()))
            table.append([*place, *numbers, f"{first['queries']:,}", f"{first['classes']:,}"])
        where = "in the gallery, itself not counted" if by == "class_size" else "that heads were trained on"
        where += "; [95 % interval over classes]"
        tables += [
            f"by the number of images of the query's class {where}",
            *aligned(table, texts=3),
            "",
        ]
    return "\n".join(tables).rstrip()
