"""Miners: which of the pairs a loss looks at. Adding one is its settings, ``pick`` and its name in ``MinerConfig``.

``pick`` takes a block of cosines and the margin of the loss, and gives triplets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor

from cache.errors import SettingsError
from stages.training.pairs.block import Block, Pairs, Triplets, place_in_row
from stages.training.pairs.distance import FARTHEST, distance_of

_BELOW_ONE = 1 - 1e-9
_PASSES = 16  # with more positives a row than this, one sort takes less time than a pass over the negatives for each


@dataclass(frozen=True)
class _Miner:
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}


@dataclass(frozen=True)
class AllConfig(_Miner):
    """No miner: every pair, or every triplet. The losses that take it have ways of their own that list none of them."""

    kind: Literal["all"] = "all"


@dataclass(frozen=True)
class DistanceWeightedConfig(_Miner):
    """Every positive pair with one negative, drawn with a weight of 1 / q(d), q the density of distances on the sphere.

    So negatives come from all distances equally (Wu et al., Sampling matters, ICCV 2017). q(d) is in proportion to
    d^(E-2) (1 - d^2/4)^((E-3)/2). At hundreds of dimensions it spans more powers of ten than a number can hold: weights
    are logarithms until the largest of a row is 1.

    Args:
        nearest_dist: a negative nearer than this is weighed as if it were there.
        farthest_dist: one that is farther is never drawn, for a loss will not look at it.
    """

    kind: Literal["distance_weighted"] = "distance_weighted"
    nearest_dist: float = 0.5
    farthest_dist: float = 1.4

    def __post_init__(self) -> None:
        if not 0 < self.nearest_dist < self.farthest_dist < FARTHEST:
            raise SettingsError(
                "nearest_dist and farthest_dist are distances of embeddings of unit length, 0 < nearest_dist < "
                f"farthest_dist < 2, got {self.nearest_dist} and {self.farthest_dist}"
            )

    def pick(self, block: Block, _margin_dist: float) -> Triplets:
        """The triplets of ``block``; the margin of the loss does not matter."""
        # A negative is drawn in proportion to its weight: where the running sum of weights passes a uniform number.
        sums = self.weights(block).cumsum(1, dtype=torch.float64)
        row, positive = block.positives
        drawable = sums[row, -1] > 0
        row, positive = row[drawable], positive[drawable]
        place = place_in_row(row)
        drawn = sums.new_zeros(len(sums), int(place.max()) + 1 if len(place) else 1)
        share = torch.rand(len(row), generator=block.generator, dtype=torch.float64, device="cpu").to(sums.device)
        drawn[row, place] = share.mul_(_BELOW_ONE) * sums[row, -1]
        negative = torch.searchsorted(sums, drawn, right=True)[row, place]
        return Triplets(row, positive, negative)

    def weights(self, block: Block) -> Tensor:
        """The weight (b, R) of each negative, the largest of a row 1; 0 for what is never drawn."""
        distance = distance_of(block.negative_cosines)
        far = block.same_label | (distance > self.farthest_dist)
        squared = distance.clamp_(self.nearest_dist, self.farthest_dist).square_()
        # log 1/q(d) = (2 - E) log d + (3 - E)/2 log(1 - d^2/4), and log d = log(d^2) / 2
        log = squared.log() * ((2 - block.dim) / 2) - (1 - squared / 4).log() * ((block.dim - 3) / 2)
        log.masked_fill_(far, -torch.inf)
        largest = log.amax(1, keepdim=True)
        return (log - torch.where(largest > -torch.inf, largest, 0.0)).exp_()


@dataclass(frozen=True)
class HardConfig(_Miner):
    """Every row with its farthest positives and its nearest negatives, each with each (Hermans et al., 2017).

    Args:
        positives: how many of the farthest; 0 takes all, so that only negatives are hard.
        negatives: how many of the nearest.
    """

    kind: Literal["hard"] = "hard"
    positives: int = 1
    negatives: int = 1

    def __post_init__(self) -> None:
        if self.positives < 0:
            raise SettingsError(
                f"positives is how many of the farthest, at least 1, or 0 for all, got {self.positives}"
            )
        if self.negatives < 1:
            raise SettingsError(f"negatives is how many of the nearest, at least 1, got {self.negatives}")

    def pick(self, block: Block, _margin_dist: float) -> Triplets:
        """The triplets of ``block``; the margin of the loss does not matter."""
        if self.positives == 0:
            return _with_nearest_negatives(block, block.positives, self.negatives)
        cosines, columns = block.padded_positives(torch.inf)
        farthest = cosines.sort(stable=True)  # the first of equals, which topk leaves open
        row, place = (farthest.values[:, : self.positives] < torch.inf).nonzero(as_tuple=True)
        return _with_nearest_negatives(block, Pairs(row, columns[row, farthest.indices[row, place]]), self.negatives)


@dataclass(frozen=True)
class SemiHardConfig(_Miner):
    """Every positive pair (a, p) with the nearest negative n of which d(a, p) < d(a, n) < d(a, p) + margin.

    A pair that has none is left out (Schroff et al., FaceNet, CVPR 2015).

    Args:
        margin_dist: the margin, a distance; by default that of the loss.
    """

    kind: Literal["semi_hard"] = "semi_hard"
    margin_dist: float | None = None

    def __post_init__(self) -> None:
        _check_own_margin(self.margin_dist)

    def pick(self, block: Block, margin_dist: float) -> Triplets:
        """The triplets of ``block``, for a loss of ``margin_dist``."""
        return _semi_hard(block, block.positives, margin_dist if self.margin_dist is None else self.margin_dist)


@dataclass(frozen=True)
class EasyPositivesConfig(_Miner):
    """Every row with its nearest positive, and with one negative (Xuan et al., WACV 2020).

    A class may hold several looks, and a row need only be near one.

    Args:
        negatives: ``semi_hard`` takes the nearest that is farther than the positive, but not by the margin; ``hard``
            takes the nearest.
        margin_dist: the margin of semi-hard ones, a distance; by default that of the loss.
    """

    kind: Literal["easy_positives"] = "easy_positives"
    negatives: Literal["semi_hard", "hard"] = "semi_hard"
    margin_dist: float | None = None

    def __post_init__(self) -> None:
        if self.negatives not in ("semi_hard", "hard"):
            raise SettingsError(f"negatives is semi_hard or hard, got {self.negatives!r}")
        _check_own_margin(self.margin_dist)

    def pick(self, block: Block, margin_dist: float) -> Triplets:
        """The triplets of ``block``, for a loss of ``margin_dist``."""
        cosines, columns = block.padded_positives(-torch.inf)
        nearest = cosines.max(1)
        row = (nearest.values > -torch.inf).nonzero()[:, 0]
        places = Pairs(row, columns[row, nearest.indices[row]])
        if self.negatives == "hard":
            return _with_nearest_negatives(block, places, 1)
        return _semi_hard(block, places, margin_dist if self.margin_dist is None else self.margin_dist)


MinerConfig: TypeAlias = Annotated[
    DistanceWeightedConfig | EasyPositivesConfig | HardConfig | SemiHardConfig, Field(discriminator="kind")
]
AllOrMinedConfig: TypeAlias = Annotated[
    AllConfig | DistanceWeightedConfig | EasyPositivesConfig | HardConfig | SemiHardConfig, Field(discriminator="kind")
]


def _check_own_margin(margin_dist: float | None) -> None:
    if margin_dist is not None and not 0 < margin_dist <= FARTHEST:
        raise SettingsError(f"margin_dist is a distance of embeddings of unit length, in (0, 2], got {margin_dist}")


def _with_nearest_negatives(block: Block, places: Pairs, count: int) -> Triplets:
    """Each of ``places`` with each of the ``count`` nearest negatives of its row, or as many as there are."""
    if count == 1:  # a maximum is many times as fast
        cosines, columns = (part[:, None] for part in block.negative_cosines.max(1))
    else:
        cosines, columns = (part[:, :count] for part in block.negative_cosines.sort(descending=True, stable=True))
    pair, place = (cosines > -torch.inf)[places.row].nonzero(as_tuple=True)
    row = places.row[pair]
    return Triplets(row, places.column[pair], columns[row, place])


def _semi_hard(block: Block, pairs: Pairs, margin_dist: float) -> Triplets:
    """Each of ``pairs``, which stand row after row, with its nearest semi-hard negative, where it has one."""
    bound = block.cosines_of(*pairs)
    place = place_in_row(pairs.row)
    several = int(place.max()) + 1 if len(place) else 0
    find = _in_passes if several <= _PASSES else _by_sorting
    column, cosine = find(block.negative_cosines, pairs.row, place, bound, several)
    inside = (cosine > -torch.inf) & (distance_of(cosine) < distance_of(bound) + margin_dist)
    return Triplets(pairs.row[inside], pairs.column[inside], column[inside])


def _in_passes(negatives: Tensor, row: Tensor, place: Tensor, bound: Tensor, several: int) -> tuple[Tensor, Tensor]:
    """The column and the cosine (T,) of the highest of ``negatives`` (b, R) below ``bound`` (T,); -inf for none."""
    column, cosine = torch.empty_like(row), torch.empty_like(bound)
    for number in range(several):
        pairs = (place == number).nonzero()[:, 0]
        cosines = negatives if len(pairs) == len(negatives) else negatives[row[pairs]]
        best = torch.where(cosines < bound[pairs, None], cosines, -torch.inf).max(1)
        column[pairs], cosine[pairs] = best.indices, best.values
    return column, cosine


def _by_sorting(negatives: Tensor, row: Tensor, place: Tensor, bound: Tensor, several: int) -> tuple[Tensor, Tensor]:
    """As :func:`_in_passes`."""
    ordered = negatives.neg().sort(stable=True)
    bounds = bound.new_zeros(len(negatives), several)
    bounds[row, place] = -bound
    first = torch.searchsorted(ordered.values, bounds, right=True)[row, place]
    exists = first < negatives.shape[1]
    first = first.clamp(max=negatives.shape[1] - 1)
    return ordered.indices[row, first], torch.where(exists, -ordered.values[row, first], -torch.inf)
