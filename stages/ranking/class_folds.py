"""Class-disjoint folds: every class is wholly inside one fold, and is never learned when that fold is searched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cache.errors import ConfigError
from stages.ranking.metrics import Counts
from stages.records.seeded_order import seeded_order

_LEAST = 2  # classes in a fold: with one there is nothing to take for another


def class_folds(
    classes: Sequence[str], domains: Sequence[str | None], folds: int, seed: int
) -> list[npt.NDArray[np.bool_]]:
    """For each of ``folds``, True at the rows (N,) that it holds out: all rows of its classes.

    Classes are dealt out in an order drawn from ``seed`` and their names, domain by domain, so that every fold has its
    share of each. A class of one row cannot be searched for: it is in no fold, and always trained on.

    Raises ConfigError when a fold would have fewer than two classes.

    >>> one, other = class_folds(list("aabbccdd"), [None] * 8, folds=2, seed=0)
    >>> int(one.sum()), int(other.sum()), bool((one & other).any())
    (4, 4, False)
    """
    names = sorted({*classes})
    number = {name: at for at, name in enumerate(names)}
    of_row = np.array([number[name] for name in classes])
    sizes = np.bincount(of_row, minlength=len(names))
    domain_of = dict(zip(classes, domains, strict=True))
    _, domain = np.unique([domain_of[name] or "" for name in names], return_inverse=True)
    if (searchable := int((sizes > 1).sum())) < _LEAST * folds:
        raise ConfigError(
            f"sweep.folds = {folds} needs at least {_LEAST * folds} training classes of two images or more, "
            f"{_LEAST} a fold; there are {searchable}. Lower folds, or train on more classes."
        )
    order = np.array(sorted(range(len(names)), key=lambda at: seeded_order(seed, "fold", names[at])))
    fold = np.where(sizes > 1, deal_classes(sizes, domain, order, folds), -1)[of_row]
    return [fold == at for at in range(folds)]


def deal_classes(sizes: Counts, domains: Counts, order: Counts, folds: int) -> Counts:
    """The fold (C,) of each class, in [0, folds): dealt out one after another, as evenly as they go.

    ``order`` (C,) is a permutation of the classes. Those that can be searched for, of two rows or more by their
    ``sizes`` (C,), are dealt out first, and domain by domain (C,), so that every fold has its share of each.

    >>> deal_classes(np.array([2, 1, 3, 2]), np.array([0, 0, 1, 1]), np.array([3, 2, 1, 0]), 2).tolist()
    [0, 1, 0, 1]
    """
    dealt = order[np.lexsort((domains[order], sizes[order] == 1))]
    fold = np.empty(len(sizes), np.int64)
    fold[dealt] = np.arange(len(sizes)) % folds
    return fold
