"""The rows that are held out of a training to choose its epoch: whole classes, or some rows of every class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stages.records.splits import label_domains

_SHARED = 4  # rows of a class of which some can be held out: two search each other, two are trained on
HOLDABLE = 5
"""With fewer classes none is held out: too few would be left on one side."""

TELLING = 5
"""Fewer held-out classes than this cannot show whether training improves on its start."""


def in_large_classes(labels: Sequence[str | None], minimum: int) -> npt.NDArray[np.bool_]:
    """True where the class of ``labels`` (N,) has at least ``minimum`` rows."""
    sizes = Counter(labels)
    return np.array([sizes[label] >= minimum for label in labels], dtype=np.bool_)


def held_rows(labels: Sequence[str | None], share: float, rng: np.random.Generator) -> npt.NDArray[np.bool_] | None:
    """True for ``share`` of the rows of each class of ``labels`` (N,), two at least of a class of four or more.

    It is for heads whose queries are of trained classes. Smaller classes are not held out. None where no class is large
    enough.
    """
    held = np.zeros(len(labels), np.bool_)
    names = np.array(["" if label is None else label for label in labels], dtype=object)
    for name in sorted(set(names)):
        rows = np.flatnonzero(names == name)
        if share > 0 and len(rows) >= _SHARED:
            held[rng.permutation(rows)[: max(2, round(share * len(rows)))]] = True
    return held if held.any() else None


def held_out(
    labels: Sequence[str | None], domains: Sequence[str | None], share: float, rng: np.random.Generator
) -> npt.NDArray[np.bool_] | None:
    """True for all rows (N,) of ``share`` of the classes, of at least two; a label is one class in all its domains.

    Only classes of two rows in one domain are held out: one row has nothing to match. None where fewer than five have.
    """
    searchable = list(label_domains(labels, domains))
    if share == 0 or len(searchable) < HOLDABLE:
        return None
    count = max(2, round(share * len(searchable)))
    chosen = {searchable[place] for place in rng.permutation(len(searchable))[:count]}
    return np.array([label in chosen for label in labels], dtype=np.bool_)
