"""Recognition: every query is given a class and a confidence, or should be trusted with none.

========  ============================================================================================================
``gap``   global average precision, or micro-AP: *one* ranking of all queries by confidence, ties by key; the sum of
          the precision at the right ones, of the number of queries that show an object of the gallery. Queries of
          nothing (distractors) cost precision where they are given a confident answer.
``gap-``  the same without the distractors
``acc``   the share of the queries with an object that are given the right class
========  ============================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np

from cache import Features
from cache.errors import NothingToScoreError, RecordsError, SettingsError, did_you_mean
from stages.ranking.intervals import Estimate, class_numbers, estimate
from stages.ranking.metrics import Values
from stages.ranking.nearest import search
from stages.ranking.normalize import unit_length
from stages.ranking.relevance import Mask, Rows, own_rows
from stages.records import Records
from stages.retrieval.protocols import MetConfig
from stages.retrieval.query_set import Sides, by_class, with_row
from stages.retrieval.scores import Scores, gather

RECOGNITION = ("gap", "gap-", "acc")
NEIGHBOURS = (1, 2, 3, 5, 7, 10, 15, 20, 50)
TEMPERATURES = (0.01, 0.1, 1.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 50.0, 100.0, 500.0)
"""What is tried on validation, as in the code of the Met dataset."""


class Answers(NamedTuple):
    """What Q queries were answered: how surely, whether that is right, and whether they show an object at all."""

    confidence: Values
    correct: Mask
    has_object: Mask
    order: Rows
    """The queries by confidence, the highest first, ties by key."""

    @classmethod
    def of(cls, confidence: Values, correct: Mask, has_object: Mask, keys: Sequence[str]) -> Answers:
        """Answers in order. Raises ValueError for a confidence that is NaN."""
        if np.isnan(confidence).any():
            wrong = keys[int(np.argmax(np.isnan(confidence)))]
            raise SettingsError(f"confidence must be numbers, got NaN for query {wrong!r}")
        places = np.argsort(np.argsort(np.array(keys, dtype=object), kind="stable"))
        return cls(confidence, correct, has_object, np.lexsort((places, -confidence)))


def global_average_precision(answers: Answers) -> Values:
    """The share (Q,) of ``gap`` that each query brings: their mean is the whole. 0 for a wrong answer."""
    return _precision_shares(answers, np.ones_like(answers.has_object))


def without_distractors(answers: Answers) -> Values:
    """The share (Q,) of ``gap-`` that each query brings; their mean is the whole."""
    return _precision_shares(answers, answers.has_object)


def _precision_shares(answers: Answers, counted: Mask) -> Values:
    """At each right answer, the precision up to it among those ``counted`` (Q,), of the queries with an object."""
    correct = (answers.correct & counted)[answers.order]
    precision = np.cumsum(correct) / np.maximum(np.cumsum(counted[answers.order]), 1)
    shares = np.zeros(len(correct))
    shares[answers.order] = precision * correct
    return shares * (len(correct) / max(int(answers.has_object.sum()), 1))


def accuracy(answers: Answers) -> Values:
    """The share (Q,) of ``acc`` that each query brings; their mean is the whole."""
    correct = (answers.correct & answers.has_object).astype(np.float64)
    return correct * (len(correct) / max(int(answers.has_object.sum()), 1))


_METRICS: dict[str, Callable[[Answers], Values]] = {
    "gap": global_average_precision,
    "gap-": without_distractors,
    "acc": accuracy,
}


def check_recognition(metrics: Sequence[str]) -> None:
    """Raise ValueError unless these are metrics of recognition, at least one."""
    if not metrics:
        raise SettingsError("metrics must name at least one, got none")
    for name in metrics:
        if name not in _METRICS:
            hint = did_you_mean(name.lower(), RECOGNITION)
            raise SettingsError(f"metrics of recognition are {', '.join(RECOGNITION)}, got {name!r}.{hint}")


def check_tuning(protocol: MetConfig, validation: tuple[Records, Records] | None) -> None:
    """Raise ValueError where a number of the ``protocol`` is to be tuned, and there is nothing to tune on."""
    given = protocol.neighbours is not None and protocol.temperature is not None
    if not given and (validation is None or not len(validation[0]) or not len(validation[1])):
        raise SettingsError(
            "neighbours and temperature are tuned on validation queries, and there are none: give both numbers, "
            'protocol = { kind = "met", neighbours = 1, temperature = 10 }'
        )


@dataclass(frozen=True)
class Neighbours:
    """The nearest gallery rows of Q queries: their classes, -1 for no row, and similarities, (Q, K).

    ``wanted`` (Q,) is the class of each query, -1 where no gallery row has it; ``num_classes`` are in the gallery.
    """

    classes: Rows
    similarity: Values
    wanted: Rows
    num_classes: int
    keys: tuple[str, ...]

    def answers(self, neighbours: int, temperature: float) -> Answers:
        """The answers by so many neighbours: a class is as similar as its most similar row, and at least 0."""
        classes, similarity = self.classes[:, :neighbours], np.maximum(self.similarity[:, :neighbours], 0.0)
        first = np.ones(classes.shape, np.bool_)  # the first row of its class, which is the most similar one
        for place in range(1, classes.shape[1]):
            first[:, place] = (classes[:, :place] != classes[:, place, None]).all(axis=1)
        first &= classes >= 0
        best = similarity[:, :1] * temperature
        total = (np.exp(similarity * temperature - best) * first).sum(axis=1)
        others = (self.num_classes - first.sum(axis=1)) * np.exp(-best[:, 0])
        confidence = np.where(classes[:, 0] >= 0, 1.0, 0.0) / np.maximum(total + others, 1e-300)
        has_object = self.wanted >= 0
        return Answers.of(confidence, has_object & (classes[:, 0] == self.wanted), has_object, self.keys)


def evaluate_recognition(
    vectors: Features,
    *,
    queries: Records,
    gallery: Records,
    protocol: MetConfig = MetConfig(),
    validation: tuple[Records, Records] | None = None,
    metrics: Sequence[str] = RECOGNITION,
) -> Scores:
    """Score the answers of nearest neighbours to ``queries``, those without a label in the gallery among them.

    Every query counts: ``unanswerable`` are the distractors. The values of one query are its shares of the whole. What
    ``protocol`` leaves open is tuned on the queries and gallery of ``validation``; ValueError where there is none.
    Otherwise raises as :func:`stages.retrieval.evaluate`, and RecordsError for a gallery image without a label.
    """
    metrics = list(dict.fromkeys(metrics))
    check_recognition(metrics)
    neighbours, temperature = _tuned(vectors, protocol, validation)
    sides = Sides.in_store(vectors, queries, gallery)
    searching, searched = sides.searching, sides.searched
    nearest = find_neighbours(vectors, searching, searched, neighbours)
    answers = nearest.answers(neighbours, temperature)
    if not answers.has_object.any():
        raise NothingToScoreError(
            f"none of the {len(searching):,} queries shows a class of the gallery of {len(searched):,}. Compare the "
            "labels of both."
        )
    per_query, everyone = {name: _METRICS[name](answers) for name in metrics}, np.ones(len(searching), np.bool_)
    estimate_of = partial(_estimated, answers, metrics, class_numbers(searching.classes))
    return gather(per_query, sides, scored=everyone, unanswerable=~answers.has_object, estimate_of=estimate_of)


def find_neighbours(vectors: Features, queries: Records, gallery: Records, count: int) -> Neighbours:
    """The ``count`` nearest gallery rows of each query; a query that is itself in the gallery is not its neighbour."""
    searched, asking = (unit_length(vectors.read(side.digests)) for side in (gallery, queries))
    rows, similarity = search(searched, asking, count, own_rows(queries.keys, gallery.keys))
    classes = by_class(queries, gallery)
    if (classes.gallery < 0).any():
        unnamed = gallery.keys[int(np.argmin(classes.gallery))]
        raise RecordsError(f"recognition names what is nearest, and the gallery image {unnamed!r} has no label")
    known = np.unique(classes.gallery[classes.gallery >= 0])
    wanted = np.where(np.isin(classes.queries, known), classes.queries, -1)
    of_rows = np.where(rows >= 0, classes.gallery[rows], -1)
    return Neighbours(of_rows, similarity.astype(np.float64), wanted, len(known), tuple(queries.keys))


def _tuned(vectors: Features, protocol: MetConfig, validation: tuple[Records, Records] | None) -> tuple[int, float]:
    """The neighbours and temperature, where not given the pair with the best ``gap`` on validation, first of equals."""
    check_tuning(protocol, validation)
    if protocol.neighbours is not None and protocol.temperature is not None:
        return protocol.neighbours, protocol.temperature
    assert validation is not None
    counts = NEIGHBOURS if protocol.neighbours is None else (protocol.neighbours,)
    temperatures = TEMPERATURES if protocol.temperature is None else (protocol.temperature,)
    queries, gallery = with_row(vectors, validation[0], "validation query"), with_row(vectors, validation[1], "gallery")
    nearest = find_neighbours(vectors, queries, gallery, max(counts))
    scored = {pair: global_average_precision(nearest.answers(*pair)).mean() for pair in product(counts, temperatures)}
    return max(scored, key=lambda pair: scored[pair])


def _estimated(answers: Answers, metrics: Sequence[str], classes: Rows, rows: Rows) -> Estimate:
    """The ``metrics`` of the queries at ``rows``, with their error over classes; with no object nothing is known.

    Each is a ratio to which a query contributes as far as the metric falls without it. Let c be 1 for the right
    answers, h for queries with an object, P = sum h, and n_i and c_1 + ... + c_i counts up to rank i, so that
    N = sum_i c_i (c_1 + ... + c_i) / n_i and gap = N / P. To first order in the weight of query q (1 where it is there)

        dN / dq = c_q precision_q + sum_{i >= q} c_i (c_q - precision_i) / n_i

    and gap moves by (dN / dq - gap h_q) / P. These sum to 0 over the queries: the error of ``gap`` is that of their
    mean, Q times as large, over classes. ``gap-`` and ``acc`` are those of the queries with an object alone.
    """
    ranked = answers.order[np.isin(answers.order, rows)]
    parts = []
    for name in metrics:
        some = ranked if name == "gap" else ranked[answers.has_object[ranked]]
        correct, has_object = (mask[some].astype(np.float64) for mask in (answers.correct, answers.has_object))
        objects = int(has_object.sum())
        if not objects:
            parts.append(Estimate(np.zeros(1), np.full(1, np.inf), np.ones(1), 1))
            continue
        value = _of_some(answers, name, rows)
        slope = correct
        if name != "acc":
            count = np.arange(1, len(some) + 1)
            precision = correct.cumsum() / count
            after = [(part / count)[::-1].cumsum()[::-1] for part in (correct, correct * precision)]
            slope = correct * precision + correct * after[0] - after[1]
        moved = value + (slope - value * has_object) * (len(some) / objects)
        known = estimate(moved[None], classes[some])
        parts.append(known._replace(mean=np.array([value]), units=len(np.unique(classes[some][has_object > 0]))))
    mean, variance, freedom = (np.concatenate(column) for column in list(zip(*parts, strict=True))[:3])
    return Estimate(mean, variance, freedom, min(part.units for part in parts))


def _of_some(answers: Answers, name: str, rows: Rows) -> float:
    order = np.argsort(np.argsort(answers.order)[rows], kind="stable")
    some = Answers(answers.confidence[rows], answers.correct[rows], answers.has_object[rows], order)
    return float(_METRICS[name](some).mean())
