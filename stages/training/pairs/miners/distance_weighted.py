"""Distance-weighted sampling: negatives from all distances equally (Wu et al., Sampling matters, ICCV 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stages.training.pairs.block import Block, Triplets, place_in_row
from stages.training.pairs.distance import FARTHEST, distance_of

_BELOW_ONE = 1 - 1e-9


@dataclass(frozen=True)
class DistanceWeightedConfig:
    """Every positive pair with one negative, drawn with a weight of 1 / q(d), q the density of distances on the sphere.

    q(d) is in proportion to d^(E-2) (1 - d^2/4)^((E-3)/2). At hundreds of dimensions it spans more powers of ten than
    a number can hold: weights are logarithms until the largest of a row is 1.

    Args:
        nearest_dist: a negative nearer than this is weighed as if it were there.
        farthest_dist: one that is farther is never drawn, for a loss will not look at it.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["distance_weighted"] = "distance_weighted"
    nearest_dist: float = 0.5
    farthest_dist: float = 1.4

    def __post_init__(self) -> None:
        if not 0 < self.nearest_dist < self.farthest_dist < FARTHEST:
            raise ValueError(
                "nearest_dist and farthest_dist are distances of embeddings of unit length, 0 < nearest_dist < "
                f"farthest_dist < 2, got {self.nearest_dist} and {self.farthest_dist}"
            )

    def pick(self, block: Block, margin_dist: float) -> Triplets:
        """The triplets of ``block``; the margin of the loss does not matter."""
        del margin_dist
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
