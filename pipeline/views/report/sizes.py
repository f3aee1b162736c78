"""The same queries in smaller galleries: what the size of a gallery hides, by the best head and the raw feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from pipeline.views.charts import Line, line_chart
from pipeline.views.report.measured import Measured
from stages.analysis import SizedScore, gallery_curve
from stages.records import Records
from stages.records.seeded_order import seeded_order
from stages.retrieval.protocols import Rules
from stages.retrieval.scores import Resampling

QUERIES = 400
"""Queries that are searched again, at most; drawn by lot."""


class SizeChart(NamedTuple):
    """The chart, its numbers, and how many queries they are means of."""

    chart: Markup
    scores: Sequence[tuple[str, Sequence[SizedScore]]]
    queries: int


def size_chart(
    shown: Sequence[Measured],
    metric: str,
    domain: str,
    looks: Mapping[str, str],
    sizes: Sequence[float],
    further: Records | None,
    rules: Rules,
    resampling: Resampling,
) -> SizeChart | None:
    """``metric`` in ``domain`` by the number of distractors, for each of ``shown``; None where that makes no curve.

    ``sizes``, ``further`` distractors and ``rules`` are as :func:`stages.retrieval.gallery_curve` takes them.
    """
    found = []
    for of in shown:
        if of.ranking is None or len(of.ranking.searches) > 1:
            return None
        queries, gallery = of.ranking.queries, of.ranking.gallery
        keys = queries.keys
        in_order = sorted(range(len(keys)), key=lambda row: seeded_order(resampling.seed, "sizes", keys[row]))
        rows = sorted(in_order[:QUERIES])
        asked, most = queries.take(rows), max(1, len(gallery) + (0 if further is None else len(further)))
        curve = gallery_curve(
            of.vectors.store,
            queries=asked,
            gallery=gallery,
            sizes=[size for size in sizes if size <= most],
            metrics=[metric],
            further=further,
            rules=rules,
            resampling=resampling,
            seed=resampling.seed,
        )
        found.append((of.name, [sized for sized in curve.scores if sized.score.domain == domain]))
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
