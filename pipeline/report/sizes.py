"""The same queries in smaller galleries: what the size of a gallery hides, by the best head and the raw feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from pipeline.drawing import Line, line_chart
from pipeline.report.measured import Measured
from stages.lot import lot
from stages.retrieval import SizedScore, gallery_curve
from stages.retrieval.scores import ALL, Resampling

QUERIES = 400
"""Queries that are searched again, at most; drawn by lot."""
SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)


class SizeChart(NamedTuple):
    """The chart, its numbers, and how many queries they are means of."""

    chart: Markup
    scores: Sequence[tuple[str, Sequence[SizedScore]]]
    queries: int


def size_chart(
    shown: Sequence[Measured], metric: str, looks: dict[str, str], resampling: Resampling
) -> SizeChart | None:
    """``metric`` against the number of distractors, for each of ``shown``; None where there are too few of them."""
    found = []
    for of in shown:
        if of.ranking is None:
            return None
        queries, gallery = of.ranking.searches.queries, of.ranking.searches.gallery
        keys = queries.keys
        rows = sorted(sorted(range(len(keys)), key=lambda row: lot(resampling.seed, "sizes", keys[row]))[:QUERIES])
        sizes = [share for share in SHARES if share * len(gallery) >= 1]
        asked = queries.take(rows)
        curve = gallery_curve(
            of.vectors.store,
            queries=asked,
            gallery=gallery,
            sizes=sizes,
            metrics=[metric],
            resampling=resampling,
            seed=resampling.seed,
        )
        found.append((of.name, [sized for sized in curve.scores if sized.score.domain == ALL]))
    if min(len(scores) for _, scores in found) < 2:
        return None
    lines = [
        Line(
            name,
            looks[name],
            [(sized.distractors, sized.score.value) for sized in scores],
            [(sized.distractors, sized.score.low, sized.score.high) for sized in scores],
        )
        for name, scores in found
    ]
    at = [sized.distractors for sized in found[0][1]]
    said = "; ".join(f"{line.name} {line.points[0][1]:.3f} to {line.points[-1][1]:.3f}" for line in lines)
    chart = line_chart(
        lines[::-1],
        label=f"{metric} with {at[0]:,} to {at[-1]:,} distractors: {said}",
        across="gallery images that can distract",
        ticks_at=at,
        log=True,
        dots=True,
    )
    return SizeChart(chart, found, found[0][1][0].score.queries)
