"""Tables as text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


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


def interval_text(score: Mapping[str, Any]) -> str:
    """A score with both ends of its interval, which need not be as far from it.

    >>> interval_text({"value": 0.95, "low": 0.9, "high": 0.97})
    '0.950 [0.900, 0.970]'
    """
    return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
