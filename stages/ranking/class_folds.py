"""Class-disjoint folds: every class is wholly inside one fold, and is never learned when that fold is searched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cache.errors import ConfigError
from stages.records.splits import label_domains, seeded_order

_LEAST = 2  # classes in a fold: with one there is nothing to take for another


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
