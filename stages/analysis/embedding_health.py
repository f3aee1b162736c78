"""The health of features and labels in numbers: spread over dimensions, hubs, labels that neighbours contradict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cache.errors import SettingsError
from stages.ranking.nearest import Rows, Similarity

_ROWS_AT_ONCE = 4096
LEAST = 3
"""Images that a class must have for their labels to be judged: in a smaller one nobody could speak for it."""
_VOTES = 0.5  # of the neighbours' weight: from here on another label is what they say


class Spread(NamedTuple):
    """How many of the D dimensions N rows use.

    ``effective_rank`` is exp of the entropy of the covariance's eigenvalues as shares (Roy and Vetterli, 2007), and
    ``participation`` is (sum of eigenvalues)^2 / sum of their squares: both D where every direction has the same
    variance, 1 where a single one has all. ``dead`` dimensions are zero in every row, ``constant`` ones (those not
    among the dead) the same number. ``first`` is the share of the variance along the first direction, ``for_90`` how
    many directions hold 90 %. ``mean_similarity`` is the cosine of two rows drawn by chance: near 1 all rows point one
    way.
    """

    rows: int
    dim: int
    effective_rank: float
    participation: float
    dead: int
    constant: int
    first: float
    for_90: int
    mean_similarity: float


def spread(vectors: npt.NDArray[np.generic]) -> Spread:
    """The spread of ``vectors`` (N, D). Raises ValueError for fewer than two rows, or rows that are not finite.

    >>> round(spread(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])).effective_rank, 3)
    2.0
    """
    rows, dim = vectors.shape
    if rows < 2:
        raise SettingsError(f"a spread takes at least two rows, got shape {vectors.shape}")
    total, second, units = np.zeros(dim), np.zeros((dim, dim)), np.zeros(dim)
    least, most = np.full(dim, np.inf), np.full(dim, -np.inf)
    for low in range(0, rows, _ROWS_AT_ONCE):
        block = vectors[low : low + _ROWS_AT_ONCE].astype(np.float64)
        if not np.isfinite(block).all():
            raise SettingsError("rows must be finite numbers; leave failed images out")
        total += block.sum(axis=0)
        second += block.T @ block
        length = np.linalg.norm(block, axis=1, keepdims=True)
        units += (block / np.where(length > 0, length, 1)).sum(axis=0)
        least, most = np.minimum(least, block.min(axis=0)), np.maximum(most, block.max(axis=0))
    mean = total / rows
    values = np.linalg.eigvalsh(second / rows - np.outer(mean, mean))[::-1].clip(min=0)
    values[values < values[0] * dim * np.finfo(np.float64).eps] = 0  # rounding
    rank, participation, for_90, shares = 0.0, 0.0, 0, values
    if values.sum() > 0:
        shares = values / values.sum()
        rank = float(np.exp(-(shares[shares > 0] * np.log(shares[shares > 0])).sum()))
        participation = float(1 / (shares**2).sum())
        for_90 = int(np.searchsorted(shares.cumsum(), 0.9 - 1e-12) + 1)
    same = least == most
    dead = int((same & (least == 0)).sum())
    pairs = (float(units @ units) - rows) / (rows * (rows - 1))  # the mean cosine of two different rows
    return Spread(rows, dim, rank, participation, dead, int(same.sum()) - dead, float(shares[0]), for_90, pairs)


class Hubs(NamedTuple):
    """How often each gallery row is among the k nearest of a query: ``counts`` (G,).

    ``skewness`` of these counts is 0 where all rows are found alike, and grows as a few answer everything
    (Radovanovic, Nanopoulos and Ivanovic, JMLR 2010). ``never`` is how many rows are among nobody's nearest;
    ``top_share`` is the share of all answers that the most found hundredth of the rows gives.
    """

    k: int
    counts: npt.NDArray[np.int64]
    skewness: float
    never: int
    top_share: float

    def top(self, number: int) -> list[int]:
        """The rows that are found most, the most found first."""
        return [int(row) for row in np.argsort(-self.counts, kind="stable")[:number]]


def hubs(nearest: Rows, gallery: int) -> Hubs:
    """The hubs by the ``nearest`` (Q, k) of ``gallery`` rows to each query, -1 for none.

    >>> found = hubs(np.array([[0, 2], [0, 1], [0, -1]]), 4)
    >>> found.top(1), found.never
    ([0], 1)
    """
    counts = np.bincount(nearest[nearest >= 0], minlength=gallery)
    deviation = counts.std()
    skewness = float(((counts - counts.mean()) ** 3).mean() / deviation**3) if deviation > 0 else 0.0
    most = np.sort(counts)[::-1][: max(1, gallery // 100)]
    never, share = int((counts == 0).sum()), float(most.sum() / max(1, counts.sum()))
    return Hubs(nearest.shape[1], counts, skewness, never, share)


class Vote(NamedTuple):
    """What the neighbours of a row say it is: shares of their weight for its own class, and for the leading other."""

    own: float
    other: float
    name: str | None


def votes(
    voters: Sequence[str | None], classes: Sequence[str | None], nearest: Rows, similarity: Similarity
) -> list[Vote]:
    """What the ``nearest`` of the ``voters`` (G,), (N, k) with their ``similarity``, say of each row's class (N,).

    A neighbour weighs as much as it is nearer than the k-th: similarity less that of the last, and a little. Those
    without a class say nothing; -1 stands for no neighbour.

    >>> (vote,) = votes(["cup", "mug", "mug"], ["cup"], np.array([[1, 2, 0]]), np.array([[0.9, 0.8, 0.2]], np.float32))
    >>> vote.name, vote.other > 0.9
    ('mug', True)
    """
    ballots = []
    for own, rows, similar in zip(classes, nearest.tolist(), similarity.astype(np.float64).tolist(), strict=True):
        near = [(voters[row], value) for row, value in zip(rows, similar, strict=True) if row >= 0]
        weights: dict[str | None, float] = defaultdict(float)
        last = min((value for _, value in near), default=0.0)
        for name, value in near:
            if name is not None:
                weights[name] += value - last + 1e-3
        total = sum(weights.values())
        others = {name: weight for name, weight in weights.items() if name != own}
        leading = max(others, key=lambda name: (others[name], name or ""), default=None)
        weight = others.get(leading, 0.0)
        ballots.append(Vote(weights.get(own, 0.0) / total if total else 0.0, weight / total if total else 0.0, leading))
    return ballots


class Suspect(NamedTuple):
    """A row whose label its neighbours contradict: ``row``, what they say instead, and by how much (0 to 1)."""

    row: int
    says: str
    certainty: float


def suspects(
    classes: Sequence[str | None], ballots: Sequence[Sequence[Vote]], sizes: Mapping[str | None, int]
) -> list[Suspect]:
    """The rows (N,) that every one of ``ballots`` (each N) gives to the same other class, the surest first.

    A ballot does where that class has more than half of the neighbours' weight. Certainty is its lead over the row's
    own class, in the mean over ballots. Rows of a class whose size, in ``sizes``, is below ``LEAST`` are not judged.

    >>> suspects(["cup"], [[Vote(own=0.1, other=0.9, name="mug")]], {"cup": 5})
    [Suspect(row=0, says='mug', certainty=0.8)]
    """
    doubtful = []
    for row, (own, ballot) in enumerate(zip(classes, zip(*ballots, strict=True), strict=True)):
        names = {vote.name for vote in ballot}
        if own is None or sizes[own] < LEAST or len(names) > 1 or None in names:
            continue
        if all(vote.other > _VOTES for vote in ballot):
            lead = sum(vote.other - vote.own for vote in ballot) / len(ballot)
            doubtful.append(Suspect(row, str(ballot[0].name), lead))
    return sorted(doubtful, key=lambda suspect: (-suspect.certainty, suspect.row))
