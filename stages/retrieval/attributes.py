"""Score a store by attributes: how alike what is found is to the query, rather than whether it has the same label.

::

    attributes --weights--> grades (Q, G) --\
    rows by digest -> unit length -> similarity (Q, G) -> graded metrics -> Scores

What *similar* means is said when it is scored, not when a head is trained: any mixture of the attributes, by weight.
A metric's name may end in ``:`` and the name of a mixture; without, every attribute weighs the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from cache import Features
from cache.errors import NothingToScoreError, RecordsError, SettingsError
from stages.ranking.metrics import Values
from stages.ranking.nearest import compare_all, query_blocks
from stages.ranking.normalize import unit_length
from stages.ranking.relevance import Rows, own_rows
from stages.ranking.ties import Ties, averaged_precision, graded_average_precision, graded_ndcg
from stages.records import Records
from stages.records.several import listed
from stages.retrieval.attribute_similarity import AttributeGrades, Grades, attribute_names
from stages.retrieval.query_set import Sides, with_row
from stages.retrieval.scores import Scores, UnanswerablePolicy, gather, to_score

Mixtures: TypeAlias = Mapping[str, Mapping[str, float]]
"""Definitions of similar, by name: a weight for each attribute that counts."""

K = 10
LEGACY = f"legacy_map@{K}"
_LARGEST = 20_000  # N x N numbers are in memory
CEILING, FLOOR = ".ceiling", ".floor"
"""What the names of a metric's bounds end in: the score of a perfect ranking, and of one by chance."""

_ARRAYS = 7  # of the size (block, G), held at once beside the grades of each mixture
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
    for rows, itself, worth in graded_blocks(searching, searched, wanted, similar):
        ties = Ties.of(compare_all(gallery_rows, asking[rows], itself))
        for metric in wanted:
            per_query[metric.name][rows] = metric.value(worth[metric.mixture], ties)
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
    """Score ``vectors`` of ``records``, searched in themselves, by ``legacy_map@10``.

    "Boosting image retrieval with accurately labelled small data", as its code has it. How similar the labels of j are
    to those of i: 0 unless all attributes are equal, else the share of j's words that i has too. The ten most similar
    by the labels are the truth, the ten most similar by the embeddings are judged: AP@10 of 10. As in the paper's code

    * both lists are the end of ``numpy.argsort``, backwards, whose first entry is dropped as if it were the query.
      Where others tie with it (the same words, the same photograph) the query can stay in, and another goes.
    * most queries have fewer than ten records with anything in common, so the truth is filled with records of
      similarity 0: even a perfect ranking scores far below 1. That is what the ceiling says.

    In the paper's sort the order of ties depends on the processor. Here it is stable: of equals the last comes first.
    A missing value is a value like any other here, and text is compared in lower case.

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
) -> Iterator[tuple[Rows, Rows, dict[str | None, Grades]]]:
    """The queries with any of the attributes, block by block: rows (n,), the gallery row of each or -1, and grades.

    These are (n, G), by the mixtures of the metrics ``wanted``; the query itself is worth nothing.
    """
    names = attributes_of(searching)
    alike = {metric.mixture: AttributeGrades(searching, searched, metric.weights(similar, names)) for metric in wanted}
    answerable = np.flatnonzero(np.all([grading.answerable for grading in alike.values()], axis=0))
    itself = own_rows(searching.keys, searched.keys)
    for block in query_blocks(len(answerable), (_ARRAYS + len(alike)) * len(searched)):
        rows = answerable[block]
        worth = {mixture: grading.grades(rows) for mixture, grading in alike.items()}
        (place,) = np.nonzero(itself[rows] >= 0)
        for grades in worth.values():
            grades[place, itself[rows][place]] = 0
        yield rows, itself[rows], worth


class Legacy(NamedTuple):
    """``legacy_map@10`` of each query (N,) beside what bounds it, the means over all orders of what ties.

    ``ceiling`` is that of a ranking by the labels' own similarity, and ``floor`` that of any ranking by chance.
    """

    value: Values
    ceiling: Values
    floor: Values


def legacy_map(vectors: npt.NDArray[np.generic], records: Records, attributes: Sequence[str]) -> Legacy:
    """The measure for ``vectors`` (N, E) of ``records``, in their order; RecordsError where it cannot be had."""
    if not K < len(vectors) <= _LARGEST:
        raise RecordsError(
            f"legacy_map@{K} compares a set with itself, every record with every other: it takes {K + 1} to "
            f"{_LARGEST:,} records, got {len(vectors):,}"
        )
    lists = ((text, listed(text or "")) for text in records.table["tags"].to_pylist())
    texts = [text if values is None else " ".join(values) for text, values in lists]
    if not any(texts):
        raise RecordsError(f"legacy_map@{K} compares tags, and no record has any: name their column, dataset.tags")
    labels = label_similarity(texts, [records.attribute(name) for name in attributes])
    unit, truth = unit_length(vectors), first(labels)
    pictures = compare_all(unit, unit, np.full(len(unit), -1))
    relevant = np.zeros(labels.shape, np.bool_)
    np.put_along_axis(relevant, truth, values=True, axis=1)
    ceiling, floor = (_expected(Ties.of(ranking), relevant) for ranking in (labels.T, np.zeros_like(labels)))
    return Legacy(average_precision(truth, first(pictures)), ceiling, floor)


def label_similarity(texts: Sequence[str | None], attributes: Sequence[Sequence[str | None]]) -> Values:
    """How similar (N, N) the labels of row j are to those of column i."""
    words = [(text or "").lower().strip().replace(" & ", "-").split(" ") for text in texts]
    numbers = {word: at for at, word in enumerate(sorted({word for text in words for word in text}))}
    counts = np.zeros((len(words), len(numbers)))
    for row, text in enumerate(words):
        np.add.at(counts[row], [numbers[word] for word in text], 1)
    shared = counts @ (counts > 0).T
    values = [tuple((value or "").lower() for value in values) for values in zip(*attributes, strict=True)]
    known = {value: at for at, value in enumerate(dict.fromkeys(values))}
    codes = np.array([known[value] for value in values] if values else [0] * len(words))
    similarity: Values = (codes[:, None] == codes) * shared / counts.sum(1, keepdims=True)
    return similarity


def first(similarity: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """The list of each column (N, 10): the end of its stable argsort, backwards, without the first."""
    lists = []
    for column in similarity.T:
        rows = np.flatnonzero(column >= np.partition(column, -K - 1)[-K - 1])  # a sort of these few is enough
        lists.append(rows[np.argsort(column[rows], kind="stable")[::-1][1 : K + 1]])
    return np.stack(lists)


def average_precision(truth: npt.NDArray[np.int64], ranked: npt.NDArray[np.int64]) -> Values:
    """AP@10 of 10 of each query (N,)."""
    hits = (ranked[:, :, None] == truth[:, None, :]).any(2)
    precision = np.cumsum(hits, axis=1) / np.arange(1, K + 1)
    total: Values = np.cumsum(precision * hits, axis=1)[:, -1] / K  # added up one after another, as the paper does
    return total


def _expected(ties: Ties, relevant: npt.NDArray[np.bool_]) -> Values:
    """AP@10 of 10 (N,), the first row of each ranking dropped, over the orders of what ties.

    To drop the first of a group is to sample the others, so rank n becomes n - 1, with one fewer before it in its
    own group if that is the first.
    """
    ranked = np.take_along_axis(relevant, ties.order, axis=1)
    _, group = ties.sums(ranked)
    head = group[:, :1] / ties.size[:, :1]  # how likely the dropped row is a relevant one
    full = averaged_precision(ranked, ties) * np.arange(1, ranked.shape[1] + 1)  # relevant x found up to here
    # Of what was found up to a rank, the dropped row: in its own group with the pairs' chance, else with the head's.
    own = ties.first == 0
    together = group / ties.size * np.where(own, (group - 1) / np.maximum(ties.size - 1, 1), head)
    left = (full - together)[:, 1 : K + 1] / np.arange(1, K + 1)
    expected: Values = left.sum(1) / K
    return expected
