"""What bounds the scores of a run: a ranking by chance, and a perfect one, by labels and by attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cache import Features
from stages.analysis.bounds import Bounds, mean_bounds, score_bounds
from stages.ranking.graded import Ties
from stages.records import Records
from stages.retrieval.attributes import Mixtures, graded_blocks, metric_of
from stages.retrieval.protocols import MetConfig
from stages.retrieval.run_scores import ScoringConfig
from stages.retrieval.scores import UnanswerablePolicy, domain_names


def attribute_bounds(
    queries: Records,
    gallery: Records,
    metrics: Sequence[str],
    similar: Mixtures | None = None,
    *,
    unanswerable: UnanswerablePolicy = "leave_out",
) -> Mapping[tuple[str, str], tuple[float, float]]:
    """Floor and ceiling of each of ``metrics`` by (metric, domain), as :func:`stages.retrieval.score_bounds` has them.

    Both are means over the orders of what ties: for the floor everything does, for the ceiling what is equally alike.
    ``queries`` and ``gallery`` are those that were scored; raises as :func:`stages.retrieval.evaluate_attributes`.

    >>> from stages.retrieval.example import IMAGES
    >>> ((floor, ceiling),) = attribute_bounds(IMAGES, IMAGES, ["graded_map"]).values()
    >>> round(floor, 3), ceiling
    (0.239, 1.0)
    """
    wanted = [metric_of(name, similar or {}) for name in dict.fromkeys(metrics)]
    bounds = {metric.name: Bounds(*(np.full(len(queries), np.nan) for _ in range(2))) for metric in wanted}
    for rows, itself, worth_of in graded_blocks(queries, gallery, wanted, similar or {}):
        (place,) = np.nonzero(itself >= 0)
        for metric in wanted:
            worth = worth_of(metric)
            for end, ranking in zip(bounds[metric.name], (np.zeros_like(worth), worth.copy()), strict=True):
                ranking[place, itself[place]] = -1  # the query itself is last
                end[rows] = metric.value(worth, Ties.of(ranking))
    nothing = np.any([np.isnan(each.floor) for each in bounds.values()], axis=0)
    for end in (end for each in bounds.values() for end in each):
        end[nothing] = 0
    scored = np.flatnonzero(~nothing) if unanswerable == "leave_out" else np.arange(len(queries))
    domains = queries.take(scored).domains
    names = domain_names(queries.domains)
    return {
        (name, domain): both
        for name, each in (bounds.items() if len(scored) else ())
        for domain, both in mean_bounds(Bounds(each.floor[scored], each.ceiling[scored]), domains, names).items()
    }


def run_bounds(
    vectors: Features, records: Records, config: ScoringConfig
) -> Mapping[tuple[str, str], tuple[float, float]]:
    """Floor and ceiling by metric and domain, for the images that have a row in ``vectors``.

    None with ``met``, which scores all queries together, by confidence; the legacy measure brings its own as scores.
    """
    if isinstance(config.protocol, MetConfig):
        return {}
    sides = (records.split(role) for role in ("query", "gallery"))
    queries, gallery = (side.take(side.rows_in(vectors)) for side in sides)
    policy, rules = config.unanswerable, config.ranked.rules()
    by_label = score_bounds(queries, gallery, config.by_label, rules, unanswerable=policy)
    if not config.graded:
        return by_label
    return dict(attribute_bounds(queries, gallery, config.graded, config.similar, unanswerable=policy)) | dict(by_label)
