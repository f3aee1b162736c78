"""Smooth ranks: where each positive stands among all that a row is compared with, as a differentiable number."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from stages.training.pairs.block import Block, statistics_of_all
from stages.training.pairs.rule import PairRule, Sums

_POSITIVES = 8  # about so many a row


class Ranks(NamedTuple):
    """Of T positive pairs: the number of the row, and the rank from 1, among all and among the row's positives."""

    row: Tensor
    among_all: Tensor
    among_positives: Tensor


def smooth_ranks(block: Block, scale: float) -> Ranks:
    """1 + the sum over the other columns z of sigmoid(scale * (c_z - c)), for each positive of cosine c.

    The row itself is left out, as a query is of its own results.
    """
    # The rank is 1 + sum_z [c_z > c], with sigmoid(scale x) in place of the step [x > 0]; (T, R) numbers at a time.
    row, column = block.positives
    own = block.differentiable(row, column)[:, None]
    above = torch.sigmoid(scale * (block.all_cosines[row] - own))  # (T, R)
    above = above.masked_fill((block.same_label & ~block.is_positive)[row], 0.0).scatter(1, column[:, None], 0.0)
    return Ranks(row, 1 + above.sum(1), 1 + torch.where(block.is_positive[row], above, 0.0).sum(1))


class RankRule(PairRule):
    """A loss by the ranks of a row's positives: the mean over the rows that have any."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self._scale = scale

    def row_size(self, columns: int) -> int:
        """See :class:`PairRule`."""
        return _POSITIVES * columns

    def sums(self, block: Block) -> Sums:
        """See :class:`PairRule`."""
        ranks = smooth_ranks(block, self._scale)
        positives = block.is_positive.sum(1)
        count = (positives > 0).sum()
        gained = self.gain(ranks, positives.clamp(min=1)[ranks.row])
        rows = float(len(block.cosines))
        statistics = statistics_of_all(block, rows, rows - float(count))
        return Sums((count - gained)[None], count[None].to(block.cosines.dtype), statistics)

    def gain(self, ranks: Ranks, positives: Tensor) -> Tensor:
        """The sum over all of T positive pairs, each row's at most 1; ``positives`` (T,) are how many its row has."""
        raise NotImplementedError(f"{type(self).__name__} has no gain: a loss of ranks is a subclass that gives one")


def check_scale(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is a factor."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is a factor, above 0 and finite, got {value}")
