"""Everything that the page shows, gathered in the order in which it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from pipeline.commands.gallery_sizes import further_distractors
from pipeline.commands.health import Health, check_health
from pipeline.commands.threshold import kept_decisions
from pipeline.config import RunConfig
from pipeline.progress import Display
from pipeline.run import Vectors, remarks, rules_of
from pipeline.score_rows import ScoreRow
from pipeline.views.leaderboard import Leaderboard
from pipeline.views.report.curves import TICKS, k_charts, k_table, looks
from pipeline.views.report.embedding_health import Soundness, soundness
from pipeline.views.report.embedding_map import EmbeddingMap, embedding_map
from pipeline.views.report.leaderboard import domain_charts, report_leaderboard
from pipeline.views.report.learning import Learning, learning
from pipeline.views.report.measured import Measured, measure, overall
from pipeline.views.report.origins import Origins, origins
from pipeline.views.report.queries import Query, shown_queries
from pipeline.views.report.similarities import pair_chart, pairs
from pipeline.views.report.sizes import SizeChart, size_chart
from pipeline.views.report.thumbnails import Thumbnail, thumbnails
from stages.records import Records
from stages.retrieval import AttributeMetric
from stages.retrieval.scores import Resampling

PICTURE, MAP_PICTURE = 128, 56
"""Sides of the pictures, in pixels."""
_HUBS, _DOUBTS = 6, 24


class PairSection(NamedTuple):
    """The similarities of pairs by one head."""

    name: str
    told_apart: float
    chart: Markup
    decisions: Sequence[Mapping[str, object]]
    """Thresholds that were calibrated for it."""


@dataclass(frozen=True)
class Contents:
    """The contents of the page. What a run does not have is empty or None."""

    name: str
    run_file: str
    queries_scored: int
    gallery: int
    metric: str
    domain: str
    remarks: Sequence[str]
    best: Measured
    board: Leaderboard
    raw: Measured | None
    """The raw feature that the best head is made from; None where the raw feature is the best."""
    curves: Sequence[tuple[str, Markup]]
    ticks: Sequence[int]
    curve_numbers: Sequence[tuple[str, Sequence[float]]]
    domains: Sequence[tuple[str, ScoreRow, Markup]]
    sizes: SizeChart | None
    soundness: Sequence[Soundness]
    health: Health | None
    pairs: Sequence[PairSection]
    learning: Sequence[Learning]
    map: EmbeddingMap | None
    map_pictures: Mapping[int, Thumbnail]
    """Of some images of the map, by their place in it."""
    queries: Sequence[Query]
    pictures: Mapping[str, Thumbnail]
    """By URI."""
    origins: Origins


def contents_of(
    config: RunConfig,
    run_file: Path,
    records: Records,
    vectors: Sequence[Vectors],
    count: int,
    *,
    health: bool,
    display: Display,
) -> Contents:
    """Gather all of it from ``vectors``; ``count`` queries are shown, and with ``health`` their images checked too."""
    resampling = Resampling(seed=config.seed)
    measured = measure(config, run_file.stem, records, vectors, display)
    metrics, domain = config.retrieval.metrics, overall(measured[0].rows)
    metric = metrics[0]
    exact, colours = [of for of in measured if of.exact], looks(measured)
    best = exact[0]
    raw = next((of for of in exact if of.raw and of.vectors.backbone == best.vectors.backbone), None)
    both = [best] if raw is None or raw is best else [best, raw]
    display.say("drawing curves")
    curves = k_charts(exact, domain, resampling)
    sizes = _sizes(config, records, both, domain, colours, resampling)
    sections = [section for of in both if (section := _pairs(config, run_file, of, records)) is not None]
    display.say("drawing the map")
    drawn = embedding_map(best, config.seed)
    sound = soundness(both, _HUBS)
    checked = None
    if health:
        checked = check_health(config, records, vectors, best.vectors, display=display)
    queries = shown_queries(best, raw if len(both) > 1 else None, metric, count)
    wanted = [of.uri for of in queries] + [image.uri for of in queries for r in of.rankings.values() for image in r]
    wanted += [hub.uri for of in sound for hub in of.top]
    if checked is not None:
        wanted += [of.uri for of in checked.suspects[:_DOUBTS]]
        wanted += [uri for of in checked.copies[:_DOUBTS] for uri in (of.uri, of.other_uri)]
    with display.bar("pictures", "images") as update:
        pictures = thumbnails(wanted, PICTURE, lambda done, of: update(done, of, ""))
        spread = drawn.spread() if drawn is not None else []
        small = thumbnails([drawn.images[at].uri for at in spread] if drawn is not None else [], MAP_PICTURE)
    of_all = measured[0].row(metric, domain)
    return Contents(
        run_file.stem,
        str(run_file),
        of_all.queries if of_all is not None else 0,
        of_all.gallery if of_all is not None else 0,
        metric,
        domain,
        remarks(records, records.counts()),
        measured[0],
        report_leaderboard(measured, metrics, domain, colours, records, resampling),
        both[1] if len(both) > 1 else None,
        curves,
        TICKS,
        k_table(exact, "hit", domain) if curves else [],
        domain_charts(measured, metric, colours),
        sizes,
        sound,
        checked,
        sections,
        learning(exact),
        drawn,
        {at: small[drawn.images[at].uri] for at in spread} if drawn is not None else {},
        queries,
        pictures,
        origins(exact, records, f"permafrost report {run_file}{' --health' if health else ''}"),
    )


def _sizes(
    config: RunConfig,
    records: Records,
    shown: Sequence[Measured],
    domain: str,
    colours: Mapping[str, str],
    resampling: Resampling,
) -> SizeChart | None:
    asked = config.retrieval
    metric = asked.metrics[0]
    if AttributeMetric.find(metric) is not None:
        return None
    further = further_distractors(records, asked.distractors) if asked.distractors else None
    return size_chart(shown, metric, domain, colours, asked.gallery_sizes, further, rules_of(config), resampling)


def _pairs(config: RunConfig, run_file: Path, of: Measured, records: Records) -> PairSection | None:
    found = pairs(of, config.seed)
    if found is None:
        return None
    decisions = kept_decisions(config, run_file, of.vectors, records)
    threshold = float(decisions[0]["threshold"]) if decisions else None
    return PairSection(of.name, found.told_apart, pair_chart(found, of.name, threshold), decisions)
