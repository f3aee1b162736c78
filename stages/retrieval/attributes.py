"""Score a store by attributes: how alike what is found is to the query, rather than whether it has the same label.

::

    attributes --weights--> grades (Q, G) --\
    rows by digest -> unit length -> similarity (Q, G) -> graded metrics -> Scores

What *similar* means is said when it is scored, not when a head is trained: any mixture of the attributes, by weight.
A metric's name may end in ``:`` and the name of a mixture; without, every attribute weighs the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np

from cache import Features
from cache.errors import NothingToScoreError, RecordsError, SettingsError
from stages.ranking.metrics import Values
from stages.ranking.nearest import compare_all, query_blocks
from stages.ranking.normalize import unit_length
from stages.ranking.relevance import Rows, own_rows
from stages.ranking.ties import Ties, graded_average_precision, graded_ndcg
from stages.records import Records
from stages.retrieval.attribute_similarity import AttributeGrades, Grades, attribute_names
from stages.retrieval.legacy import K, legacy_map
from stages.retrieval.query_set import Sides, with_row
from stages.retrieval.scores import Scores, UnanswerablePolicy, gather, to_score

Mixtures: TypeAlias = Mapping[str, Mapping[str, float]]
"""Definitions of similar, by name: a weight for each attribute that counts."""

LEGACY = f"legacy_map@{K}"
CEILING, FLOOR = ".ceiling", ".floor"
"""What the names of a metric's bounds end in: the score of a perfect ranking, and of one by chance."""

_ARRAYS = 8  # of the size (block, G), held at once
_GRADED = re.compile(r"graded_map|graded_ndcg(_exp)?(@[1-9][0-9]*)?")


class AttributeMetric(NamedTuple):
    """A metric by name, one of :func:`attribute_metric_names`, and its mixture."""

    name: str
    stem: str
    mixture: str | None

    @classmethod
    def find(cls, name: str) -> AttributeMetric | None:
        """The metric of that name; None where ``name`` is none of these."""
        stem, colon, mixture = name.partition(":")
        if not (_GRADED.fullmatch(stem) or stem == LEGACY) or (colon and not mixture):
            return None
        return cls(name, stem, mixture or None)

    @property
    def legacy(self) -> bool:
        """True for ``legacy_map@10``, which :func:`evaluate_legacy` scores."""
        return self.stem == LEGACY

    def value(self, grades: Values, ties: Ties) -> Values:
        """The value (Q,) of the graded metric, from grades (Q, G) and the ties of a ranking."""
        if self.stem == "graded_map":
            return graded_average_precision(grades, ties)
        gain, _, k = self.stem.partition("@")
        return graded_ndcg(grades, ties, int(k) if k else None, exponential=gain == "graded_ndcg_exp")

    def weights(self, similar: Mixtures, names: Sequence[str]) -> Mapping[str, float]:
        """A weight for each attribute that counts."""
        return similar[self.mixture] if self.mixture is not None else dict.fromkeys(names, 1.0)


def attribute_metric_names() -> tuple[str, ...]:
    """The metrics there are; k stands for any whole number from 1.

    >>> attribute_metric_names()[0]
    'graded_map'
    """
    return ("graded_map", "graded_ndcg", "graded_ndcg@k", "graded_ndcg_exp", "graded_ndcg_exp@k", LEGACY)


def evaluate_attributes(
    vectors: Features,
    *,
    queries: Records,
    gallery: Records,
    metrics: Sequence[str] = ("graded_map", "graded_ndcg"),
    similar: Mixtures | None = None,
    unanswerable: UnanswerablePolicy = "leave_out",
) -> Scores:
    """Score ``vectors``, made unit length, on every query against the whole gallery, exactly.

    Images that failed are left out. What ties counts as the mean over all of its orders.

    ``similar`` has the mixtures that the names of ``metrics`` end in. ``unanswerable`` are queries without any of the
    attributes, and those to which no gallery row is like at all. Otherwise as :func:`stages.retrieval.evaluate`, which
    names what is raised; RecordsError also for an attribute that the records have not.

    >>> from stages.retrieval.example import IMAGES, VECTORS
    >>> scores = evaluate_attributes(VECTORS, queries=IMAGES, gallery=IMAGES, metrics=["graded_ndcg@3"])
    >>> scores.value("graded_ndcg@3")
    1.0
    """
    similar = similar or {}
    wanted = [metric_of(name, similar) for name in dict.fromkeys(metrics)]
    sides = Sides.in_store(vectors, queries, gallery)
    searching, searched = sides.searching, sides.searched
    gallery_rows, asking = (unit_length(vectors.read(side.digests)) for side in (searched, searching))
    per_query = {metric.name: np.full(len(searching), np.nan) for metric in wanted}
    for rows, itself, worth_of in graded_blocks(searching, searched, wanted, similar):
        ties = Ties.of(compare_all(gallery_rows, asking[rows], itself))
        for metric in wanted:
            per_query[metric.name][rows] = metric.value(worth_of(metric), ties)
    answerable = ~np.any([np.isnan(values) for values in per_query.values()], axis=0)
    if not answerable.any():
        raise NothingToScoreError(
            f"none of the {len(searching):,} queries is like any of the {len(searched):,} gallery images by the "
            f"attributes {', '.join(attributes_of(searching))}: they are missing, or all different"
        )
    scored = to_score(answerable, unanswerable, searching)
    values = {name: np.where(answerable, values, 0.0)[scored] for name, values in per_query.items()}
    return gather(values, sides, scored=scored, unanswerable=~answerable)


def evaluate_legacy(
    vectors: Features, records: Records, *, metrics: Sequence[str] = (LEGACY,), similar: Mixtures | None = None
) -> Scores:
    """Score ``vectors`` of ``records``, searched in themselves, as :mod:`stages.retrieval.legacy` says.

    Each of ``metrics`` comes with two scores more: its name with ``.ceiling`` and with ``.floor``. Every record whose
    image did not fail is a query. The other arguments, and what is raised, as for :func:`evaluate_attributes`.

    >>> from stages.retrieval.example import IMAGES, VECTORS
    >>> [score.metric for score in evaluate_legacy(VECTORS, IMAGES)]
    ['legacy_map@10', 'legacy_map@10.ceiling', 'legacy_map@10.floor']
    """
    similar = similar or {}
    wanted = [metric_of(name, similar) for name in dict.fromkeys(metrics)]
    searching = with_row(vectors, records, "query")
    names, read = attributes_of(searching), vectors.read(searching.digests)
    per_query: dict[str, Values] = {}
    for metric in wanted:
        counted = [name for name, weight in metric.weights(similar, names).items() if weight]
        value, ceiling, floor = legacy_map(read, searching, counted)
        per_query |= {metric.name: value, metric.name + CEILING: ceiling, metric.name + FLOOR: floor}
    every = np.ones(len(searching), np.bool_)
    return gather(per_query, Sides(records, records, searching, searching), scored=every, unanswerable=~every)


def attributes_of(records: Records) -> tuple[str, ...]:
    """The attributes that ``records`` have. RecordsError where there are none."""
    names = attribute_names(records)
    if not names:
        raise RecordsError("there are no attributes to score by: name their columns, dataset.attributes = [...]")
    return names


def metric_of(name: str, similar: Mixtures) -> AttributeMetric:
    """The metric of that name. ValueError for an unknown one, or one that is not in ``similar``."""
    metric = AttributeMetric.find(name)
    if metric is None:
        raise SettingsError(f"metrics by attributes are {', '.join(attribute_metric_names())}, got {name!r}")
    if metric.mixture is not None and metric.mixture not in similar:
        known = ", ".join(similar) or "none"
        raise SettingsError(f"{name}: there is no definition of similar called {metric.mixture!r}; there are {known}")
    return metric


def graded_blocks(
    searching: Records, searched: Records, wanted: Sequence[AttributeMetric], similar: Mixtures
) -> Iterator[tuple[Rows, Rows, Callable[[AttributeMetric], Grades]]]:
    """The queries with any of the attributes, block by block: rows (n,), the gallery row of each or -1, and grades.

    These are (n, G) for a metric of ``wanted``; the query itself is worth nothing.
    """
    names = attributes_of(searching)
    alike = {metric.mixture: AttributeGrades(searching, searched, metric.weights(similar, names)) for metric in wanted}
    answerable = np.flatnonzero(np.all([grading.answerable for grading in alike.values()], axis=0))
    itself = own_rows(searching.keys, searched.keys)
    for block in query_blocks(len(answerable), _ARRAYS * len(searched)):
        rows = answerable[block]
        yield rows, itself[rows], partial(_worth, alike, rows, itself[rows])


def _worth(alike: Mapping[str | None, AttributeGrades], rows: Rows, itself: Rows, metric: AttributeMetric) -> Grades:
    grades = alike[metric.mixture].grades(rows)
    (place,) = np.nonzero(itself >= 0)
    grades[place, itself[place]] = 0
    return grades
