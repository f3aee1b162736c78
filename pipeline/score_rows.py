"""The scores of a run as flat rows: lines of JSON for machines, and what tables and pages are made of."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

RAW = "raw"  # the head of a row that scores the feature itself


class ScoreRow(NamedTuple):
    """One score: a line of JSON. ``low`` and ``high`` bound its 95 % interval over classes.

    ``floor`` is the score of a random ranking for these queries and this gallery, ``ceiling`` that of a perfect one;
    None where it is not known.
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


def json_lines(rows: Iterable[Any]) -> str:  # named tuples
    """A flat JSON object a line."""
    return "".join(json.dumps(row._asdict()) + "\n" for row in rows)
