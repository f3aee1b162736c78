"""``legacy_map@10``: the measure of "Boosting image retrieval with accurately labelled small data", as its code has it.

A set of N records is searched in itself. How similar the labels of j are to those of i: 0 unless all attributes are
equal, else the share of j's words that i has too. The ten most similar by the labels are the truth, the ten most
similar by the embeddings are judged: AP@10 of 10. As in the paper's code

* both lists are the end of ``numpy.argsort``, backwards, whose first entry is dropped as if it were the query. Where
  others tie with it (the same words, the same photograph) the query can stay in, and another goes.
* most queries have fewer than ten records with anything in common, so the truth is filled with records of similarity 0:
  even a perfect ranking scores far below 1. That is what the ceiling says.

In the paper's sort the order of ties depends on the processor. Here it is stable: of equals the last comes first.

A missing value is a value like any other here, and text is compared in lower case.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cache.errors import RecordsError
from stages.ranking.nearest import compare_all
from stages.ranking.normalize import unit_length
from stages.ranking.ties import Ties, averaged_precision
from stages.records import Records
from stages.records.several import listed

K = 10
_LARGEST = 20_000  # N x N numbers are in memory

Values = npt.NDArray[np.float64]


class Legacy(NamedTuple):
    """``legacy_map@10`` of each query (N,) beside what bounds it.

    ``ceiling`` is the mean for a ranking by the labels' own similarity, and ``floor`` for any ranking by chance, both
    over all orders of what ties.
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
