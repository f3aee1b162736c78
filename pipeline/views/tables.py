"""The scores as a table for people and as flat JSON lines for machines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stages.retrieval.attributes import CEILING, FLOOR

_BOUNDS = (CEILING, FLOOR)


class ScoreRow(NamedTuple):
    """One number: a line of JSON. ``low`` and ``high`` bound its 95 % interval over queries.

    ``floor`` is what a ranking by chance has for these queries and this gallery, ``ceiling`` what a perfect one has;
    None where that is not known.
    """

    backbone: str
    head: str
    domain: str
    metric: str
    value: float
    low: float
    high: float
    queries: int
    gallery: int
    embeddings: str
    floor: float | None = None
    ceiling: float | None = None


def json_lines(rows: Iterable[ScoreRow]) -> str:
    """A flat JSON object a line."""
    return "".join(json.dumps(row._asdict()) + "\n" for row in rows)


def score_table(rows: Sequence[ScoreRow]) -> str:
    """A line for each head (and domain), ``raw`` first, a column for each metric with half its 95 % interval.

    The best of a backbone, domain and metric has a star. What bounds a metric is the same in every line, and stands
    below.
    """
    bounds = _bounds(rows)
    rows = [row for row in rows if not row.metric.endswith(_BOUNDS)]
    metrics = list(dict.fromkeys(row.metric for row in rows))
    by_domain = len({row.domain for row in rows}) > 1
    lines: dict[tuple[str, str, str], dict[str, ScoreRow]] = {}
    best: dict[tuple[str, str, str], float] = {}
    for row in rows:
        lines.setdefault((row.backbone, row.head, row.domain), {})[row.metric] = row
        place = (row.backbone, row.domain, row.metric)
        best[place] = max(row.value, best.get(place, row.value))
    table = [["backbone", "head", *(["domain"] if by_domain else []), *metrics, "queries", "gallery"]]
    for (backbone, head, domain), cells in lines.items():
        numbers = []
        for metric in metrics:
            row = cells[metric]
            star = "*" if row.value == best[backbone, domain, metric] else " "
            numbers.append(f"{row.value:.3f} ±{(row.high - row.low) / 2:.3f}{star}")
        first = cells[metrics[0]]
        names = [backbone, head, *([domain] if by_domain else [])]
        table.append([*names, *numbers, f"{first.queries:,}", f"{first.gallery:,}"])
    lines_of_text = aligned(table, texts=3 if by_domain else 2)
    legend = ["± half of the 95 % interval over queries; * the best of its backbone"]
    legend += [
        f"{metric}: a perfect ranking has {bounds[metric][1]:.3f}, one by chance {bounds[metric][0]:.3f}"
        for metric in metrics
        if metric in bounds
    ]
    return "\n".join([*lines_of_text, *legend])


def _bounds(rows: Sequence[ScoreRow]) -> dict[str, tuple[float, float]]:
    """Floor and ceiling of each metric over all queries, in the first line that has them."""
    own = {row.metric: row.value for row in rows if row.metric.endswith(_BOUNDS) and row.domain == "all"}
    found = {}
    for row in rows:
        if row.metric in found or row.domain != "all":
            continue
        if row.floor is not None and row.ceiling is not None:
            found[row.metric] = row.floor, row.ceiling
        elif row.metric + FLOOR in own:
            found[row.metric] = own[row.metric + FLOOR], own[row.metric + CEILING]
    return found


def aligned(table: Sequence[Sequence[str]], *, texts: int) -> list[str]:
    """A line for each row of cells, the first ``texts`` columns flush left and the others right."""
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]
