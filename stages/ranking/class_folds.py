"""Class-disjoint folds: every class is wholly inside one fold, and is never learned when that fold is searched."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cache.errors import ConfigError
from stages.records.seeded_order import seeded_order

_LEAST = 2  # classes in a fold: with one there is nothing to take for another


def class_folds(
    classes: Sequence[str], domains: Sequence[str | None], folds: int, seed: int
) -> list[npt.NDArray[np.bool_]]:
    """For each of ``folds``, True at the rows (N,) that it holds out: all rows of its classes.

    Classes are dealt out in an order drawn from ``seed`` and their names, domain by domain, so that every fold has its
    share of each. A class of one row cannot be searched for: it is in no fold, and always trained on.

    Raises ConfigError when a fold would have fewer than two classes.
    """
    sizes = Counter(classes)
    of_domain = defaultdict(set)
    for name, domain in zip(classes, domains, strict=True):
        if sizes[name] > 1:
            of_domain[domain or ""].add(name)
    dealt = [
        name
        for domain in sorted(of_domain)
        for name in sorted(of_domain[domain], key=lambda name: seeded_order(seed, "fold", name))
    ]
    if len(dealt) < _LEAST * folds:
        raise ConfigError(
            f"sweep.folds = {folds} needs at least {_LEAST * folds} training classes of two images or more, "
            f"{_LEAST} a fold; there are {len(dealt)}. Lower folds, or train on more classes."
        )
    place = {name: at % folds for at, name in enumerate(dealt)}
    rows = np.array([place.get(name, -1) for name in classes])
    return [rows == fold for fold in range(folds)]
