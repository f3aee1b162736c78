"""What a similarity means: the share of pairs this similar that match, as calibration queries have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stages.analysis.open_set import Comparisons, edge_of

_LEAST = 30  # pairs of a step: a share of fewer says little


class PairShare(NamedTuple):
    """Of the ``pairs`` from this ``similarity`` up to the next step, ``matched`` show the same class."""

    similarity: float
    matched: int
    pairs: int

    @property
    def share(self) -> float:
        """Of the pairs that match."""
        return self.matched / self.pairs


def pair_shares(compared: Comparisons) -> list[PairShare]:
    """Steps of rising similarity whose share never falls, each of at least 30 pairs where there are as many.

    Isotonic regression of every comparison (Zadrozny and Elkan, 2002); steps of fewer pairs join the one below. The
    shares hold for pairs as they are compared there: a query with every row of its gallery.

    >>> from types import SimpleNamespace
    >>> from stages.analysis.open_set import bins_of
    >>> mated, non_mated = (np.bincount(bins_of(np.array([0.2] * low + [0.9] * high)), minlength=65538)
    ...     for low, high in ((10, 90), (190, 10)))
    >>> [(step.similarity, step.share) for step in pair_shares(SimpleNamespace(mated=mated, non_mated=non_mated))]
    [(0.199..., 0.05), (0.899..., 0.9)]
    """
    from sklearn.isotonic import isotonic_regression

    pairs = compared.mated + compared.non_mated
    bins = np.flatnonzero(pairs)
    fitted = isotonic_regression(compared.mated[bins] / pairs[bins], sample_weight=pairs[bins].astype(np.float64))
    starts = np.flatnonzero(np.diff(fitted, prepend=-1.0) > 0)
    steps = [
        PairShare(edge_of(int(bins[part[0]])), int(compared.mated[bins[part]].sum()), int(pairs[bins[part]].sum()))
        for part in np.split(np.arange(len(bins)), starts[1:])
    ]
    joined: list[PairShare] = []
    for step in reversed(steps):  # the highest first
        if joined and joined[-1].pairs < _LEAST:
            above = joined.pop()
            step = PairShare(step.similarity, step.matched + above.matched, step.pairs + above.pairs)
        joined.append(step)
    return joined[::-1]


def share_at(similarity: float, shares: Sequence[PairShare]) -> PairShare | None:
    """The step that ``similarity`` is in, the lowest where it is below all; None where there are no ``shares``.

    >>> share_at(0.7, [PairShare(-1.0, 1, 100), PairShare(0.5, 80, 100)]).share
    0.8
    """
    reached = [step for step in shares if step.similarity <= similarity] or shares[:1]
    return reached[-1] if reached else None
