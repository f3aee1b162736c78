"""What bounds a score by attributes: a ranking by chance, and one by the attributes themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stages.analysis.bounds import Bounds, mean_bounds
from stages.ranking.graded import Ties
from stages.ranking.nearest import query_blocks
from stages.ranking.relevance import own_rows
from stages.records import Records
from stages.retrieval.attribute_similarity import AttributeGrades
from stages.retrieval.attributes import ARRAYS, Mixtures, attributes_of, function_of, metric_of
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
    names = attributes_of(queries)
    alike = {
        metric.mixture: AttributeGrades(queries, gallery, metric.weights(similar or {}, names)) for metric in wanted
    }
    rows = np.flatnonzero(np.all([grading.answerable for grading in alike.values()], axis=0))
    itself = own_rows(queries.keys, gallery.keys)
    bounds = {metric.name: Bounds(*(np.full(len(queries), np.nan) for _ in range(2))) for metric in wanted}
    for block in query_blocks(len(rows), ARRAYS * len(gallery)):
        some = rows[block]
        (place,) = np.nonzero(itself[some] >= 0)
        for metric in wanted:
            grades = alike[metric.mixture].grades(some)
            for end, ranking in zip(bounds[metric.name], (np.zeros_like(grades), grades.copy()), strict=True):
                ranking[place, itself[some][place]] = -1  # the query itself is last, and worth nothing
                worth = grades.copy()
                worth[place, itself[some][place]] = 0
                end[some] = function_of(metric.stem)(worth, Ties.of(ranking))
    nothing = np.any([np.isnan(each.floor) for each in bounds.values()], axis=0)
    for end in (end for each in bounds.values() for end in each):
        end[nothing] = 0
    scored = np.flatnonzero(~nothing) if unanswerable == "leave_out" else np.arange(len(queries))
    domains = queries.take(scored).domains
    ends: dict[tuple[str, str], tuple[float, float]] = {}
    for name, each in bounds.items() if len(scored) else ():
        by_domain = mean_bounds(
            Bounds(each.floor[scored], each.ceiling[scored]), domains, domain_names(queries.domains)
        )
        ends |= {(name, domain): both for domain, both in by_domain.items()}
    return ends
