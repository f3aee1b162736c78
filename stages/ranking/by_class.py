"""Where relevance is by class: the value of a metric for each query, and folds that no class is in twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cache.errors import ConfigError, SettingsError
from stages.ranking.metrics import Values, average_precision, find_metric
from stages.ranking.nearest import ranks_by_similarity
from stages.ranking.normalize import unit_length
from stages.ranking.relevance import ByClass, Judgement, Rows, relevance_tables
from stages.records.splits import label_domains, seeded_order

_LEAST = 2  # classes in a fold: with one there is nothing to take for another


def values_by_class(
    metric: str,
    queries: npt.NDArray[np.generic],
    gallery: npt.NDArray[np.generic],
    query_classes: Rows,
    gallery_classes: Rows,
    itself: Rows | None = None,
) -> Values:
    """The value (Q,) of ``metric`` for each of ``queries`` (Q, E), ranked over ``gallery`` (G, E) by cosine.

    A gallery row is relevant where its class (G,) is that of the query (Q,), whole numbers of which -1 is no class.
    ``itself`` (Q,) is the gallery row that is the query, which its ranking leaves out, or -1. A query to which nothing
    is relevant gets NaN. Equal similarities come in the order of the gallery.

    Raises ValueError for an unknown metric and for NaN in a vector.

    >>> vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> values_by_class("precision@2", vectors[:1], vectors, np.array([7]), np.array([7, 7, 8]))
    array([1.])
    """
    wanted = find_metric(metric)
    itself = np.full(len(queries), -1, np.int64) if itself is None else itself
    relevance = ByClass(query_classes, gallery_classes)
    num_relevant = Judgement(relevance).num_relevant(itself)
    values = np.full(len(queries), np.nan)
    searching = np.flatnonzero(num_relevant > 0)
    if len(searching):
        searched = unit_length(gallery)
        asking = searched[searching] if queries is gallery else unit_length(queries[searching])
        num_relevant = num_relevant[searching]
        depth = int(wanted.depths(num_relevant, len(gallery)).max())
        judged = Judgement(relevance.take(searching))
        for table in relevance_tables(searched, asking, judged, itself[searching], depth):
            values[searching[table.queries]] = table.value(wanted, num_relevant)
    return values


def mean_average_precision(similarity: npt.NDArray[np.floating], classes: Rows) -> float:
    """The mAP of rows of ``classes`` (n,) that search each other by a table of ``similarity`` (n, n).

    A row is no result of its own, and one that is alone with its class has no part in the mean. 0 where all are.

    >>> mean_average_precision(np.array([[1.0, 0.2, 0.9], [0.2, 1.0, 0.1], [0.9, 0.1, 1.0]]), np.array([5, 5, 6]))
    0.75
    """
    others = np.where(np.eye(len(classes), dtype=np.bool_), -np.inf, similarity)
    members = ByClass(classes, classes)
    own = {row: rows[rows != row] for row in range(len(classes)) for rows in [members.rows(row)]}
    searching = [row for row, rows in own.items() if len(rows)]
    if not searching:
        return 0.0
    relevant = [own[row] for row in searching]
    table = ranks_by_similarity(others[searching], relevant, len(classes) - 1)
    return float(average_precision(table, np.array([len(rows) for rows in relevant])).mean())


def leave_one_out(vectors: npt.NDArray[np.generic], labels: Rows, metric: str) -> Values:
    """The value (N,) of ``metric`` for each of ``vectors`` (N, E), made unit length, searched in all the others.

    Relevant are the rows of the same label (N,); a row that is alone with its label gets NaN, as there is nothing to
    find. Raises ValueError for an unknown metric, NaN in ``vectors``, and negative labels.

    >>> leave_one_out(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), np.array([0, 0, 1]), "hit@1")
    array([ 1.,  1., nan])
    """
    if len(labels) != len(vectors) or (len(labels) and labels.min() < 0):
        raise SettingsError(f"labels are numbers from 0, one a row; got {len(labels)} for {len(vectors)} vectors")
    return values_by_class(metric, vectors, vectors, labels, labels, np.arange(len(labels)))


def class_folds(
    labels: Sequence[str], domains: Sequence[str | None], folds: int, seed: int
) -> list[npt.NDArray[np.bool_]]:
    """For each of ``folds``, True at the rows (N,) that it holds out: all rows of its classes, in all domains.

    Classes are dealt out in an order drawn from ``seed`` and their names, domain by domain (the first where a class has
    two rows), so that every fold has its share of each. A class that has two rows in no domain cannot be searched for:
    it is in no fold, and always trained on.

    Raises ConfigError when a fold would have fewer than two classes.

    >>> one, other = class_folds(list("aabbccdd"), [None] * 8, folds=2, seed=0)
    >>> int(one.sum()), int(other.sum()), bool((one & other).any())
    (4, 4, False)
    """
    domain_of = label_domains(labels, domains)
    if len(domain_of) < _LEAST * folds:
        raise ConfigError(
            f"sweep.folds = {folds} needs at least {_LEAST * folds} training classes of two images or more, "
            f"{_LEAST} a fold; there are {len(domain_of)}. Lower folds, or train on more classes."
        )

    def order(label: str) -> tuple[str, bytes]:
        domain = domain_of[label]
        return domain, seeded_order(seed, "fold", f"{domain}\0{label}" if domain else label)

    fold_of = {label: place % folds for place, label in enumerate(sorted(domain_of, key=order))}
    fold = np.array([fold_of.get(label, -1) for label in labels])
    return [fold == at for at in range(folds)]
