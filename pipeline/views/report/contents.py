"""Everything that the page shows, gathered in the order in which it is shown, and the page itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from pipeline.commands.health import health_of_run
from pipeline.dataset import Run, remarks
from pipeline.scores import ScoreRow
from pipeline.thresholds import kept_decisions
from pipeline.vectors import Vectors
from pipeline.views.leaderboard import Leaderboard
from pipeline.views.pages import render
from pipeline.views.report import curves as drawn
from pipeline.views.report.curves import MapView, map_view
from pipeline.views.report.learning import LearningCurves, learning_curves
from pipeline.views.report.measured import Measured, domain_charts, measure, overall, report_leaderboard
from pipeline.views.report.origins import Origins, origins
from pipeline.views.report.queries import LISTS, Query, shown_queries
from pipeline.views.thumbnails import Thumbnail, thumbnails
from stages.analysis.health import Health, VectorHealth, vector_health
from stages.retrieval.scores import MEAN

PICTURE, MAP_PICTURE = 128, 56
"""Sides of the pictures, in pixels."""
HUBS = 6
"""Images that are shown of those that are nearest most often."""
_DOUBTS = 24
_TIED = 6  # names in a sentence


class PairSection(NamedTuple):
    """The similarities of pairs by one head, and the thresholds that were calibrated for it."""

    name: str
    roc_auc: float
    chart: Markup
    decisions: Sequence[Mapping[str, object]]


@dataclass(frozen=True)
class Contents:
    """The contents of the page. What a run does not have is empty or None.

    ``best`` is what won, searched exactly, ``head`` the best head, and ``raw`` the feature that it is made from.
    ``map_pictures`` are by the place of an image on the map, and ``pictures``, all others, by URI.
    """

    name: str
    run_file: str
    queries_scored: int
    gallery: int
    metric: str
    domain: str
    remarks: Sequence[str]
    best: Measured
    head: Measured | None
    raw: Measured | None
    board: Leaderboard
    curves: drawn.KCurves
    domains: Sequence[tuple[str, ScoreRow, Markup]]
    sizes: drawn.SizeChart | None
    soundness: Mapping[str, VectorHealth]
    health: Health | None
    pairs: Sequence[PairSection]
    learning: Sequence[LearningCurves]
    map: MapView | None
    map_pictures: Mapping[int, Thumbnail]
    queries: Sequence[Query]
    pictures: Mapping[str, Thumbnail]
    origins: Origins


def contents_of(run: Run, vectors: Sequence[Vectors], count: int, *, health: bool) -> Contents:
    """Gather all of it from ``vectors``; ``count`` queries are shown, and with ``health`` their images checked too."""
    config, records, display = run.config, run.records, run.display
    measured = measure(run, vectors)
    metrics, domain = config.retrieval.metrics, overall(measured[0].rows)
    metric, colours = metrics[0], drawn.looks(measured)
    exact = [side for side in measured if side.exact]
    best = exact[0]
    head = next((side for side in exact if not side.raw), None)
    raw = next((side for side in exact if head and side.raw and side.vectors.backbone == head.vectors.backbone), None)
    compared = [side for side in dict.fromkeys((best, head, raw)) if side is not None]
    display.say("drawing curves")
    curves = drawn.k_curves(exact, domain, colours)
    sizes = drawn.size_chart(run, compared, domain, colours)
    sections = [section for side in compared if (section := _pairs(run, side)) is not None]
    display.say("drawing the map")
    mapped = map_view(best, config.seed)
    ranked = [(side.name, side.vectors) for side in compared if side.ranks is not None]
    sound = {name: vector_health(own.backbone, own.head, own.store, records) for name, own in ranked}
    checked = health_of_run(run, vectors) if health else None
    queries = shown_queries(best, head, raw, metric, count)
    uris = [query.uri for query in queries]
    uris += [image.uri for query in queries for result in query.results.values() for image in result.images]
    uris += [hub.uri for line in sound.values() for hub in line.top[:HUBS]]
    if checked is not None:
        uris += [suspect.uri for suspect in checked.suspects[:_DOUBTS]]
        uris += [uri for copy in checked.copies[:_DOUBTS] for uri in (copy.uri, copy.other_uri)]
    with display.bar("pictures", "images") as update:
        pictures = thumbnails(uris, PICTURE, lambda done, total: update(done, total, ""))
        on_map = {at: mapped.images[at].uri for at in mapped.pictured} if mapped is not None else {}
        small = thumbnails(on_map.values(), MAP_PICTURE)
    over_all = measured[0].row(metric, domain)
    return Contents(
        run.name,
        str(run.file),
        *((over_all.queries, over_all.gallery) if over_all is not None else (0, 0)),
        metric,
        domain,
        remarks(config, records, records.counts()),
        best,
        head,
        raw,
        report_leaderboard(measured, metrics, domain, colours, records),
        curves,
        domain_charts(measured, metric, colours),
        sizes,
        sound,
        checked,
        sections,
        learning_curves(exact),
        mapped,
        {at: small[uri] for at, uri in on_map.items()},
        queries,
        pictures,
        origins(exact, records, config.retrieval, f"permafrost report {run.file}{' --health' if health else ''}"),
    )


def report_page(contents: Contents) -> str:
    """The whole page as HTML, which loads nothing from elsewhere."""
    lists, images = {query.list for query in contents.queries}, contents.map.images if contents.map else []
    return render(
        "report/page.html",
        report=contents,
        ticks=drawn.TICKS,
        hubs=HUBS,
        place="in the mean of the domains" if contents.domain == MEAN else "over all queries",
        lists={name: title for name, title in LISTS.items() if name in lists},
        query_domains=sorted({query.domain for query in contents.queries if query.domain}),
        tied=[row.names[0] for row in contents.board.rows if row.tied][:_TIED],
        map_facts=[[image.label, image.domain, image.key] for image in images],
    )


def _pairs(run: Run, side: Measured) -> PairSection | None:
    pairs = drawn.pair_similarities(side, run.config.seed)
    if pairs is None:
        return None
    decisions = kept_decisions(run, side.vectors)
    threshold = float(decisions[0]["threshold"]) if decisions else None
    return PairSection(side.name, pairs.roc_auc, drawn.pair_chart(pairs, side.name, threshold), decisions)
