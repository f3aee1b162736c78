"""What distinguishes one loss on pairs from another, where it is a sum over the rows of a batch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from stages.training.pairs.block import Block, PairStatistics


class Sums(NamedTuple):
    """What one block of rows adds to a loss: the loss is the sum over the S parts of total / count, over all blocks.

    Attributes:
        totals: (S,), differentiable by the block's cosines and the rule's parameters.
        counts: (S,), constants; a part whose count is 0 is left out.
        statistics: for the log.
    """

    totals: Tensor
    counts: Tensor
    statistics: PairStatistics


class PairRule(nn.Module):
    """A loss as a function of blocks of cosines. Its parameters are trained with the head."""

    def __init__(self, parts: int = 1) -> None:
        super().__init__()
        self.parts = parts
        """S: how many parts are summed and divided each by itself."""

    def at(self, share: float) -> None:
        """Set the schedules to where they stand after ``share`` of the training, in [0, 1]."""

    def row_size(self, columns: int) -> int:
        """About how many numbers a row of ``columns`` cosines takes in memory while its block is computed."""
        return columns

    def sums(self, block: Block) -> Sums:
        """What ``block`` adds. Worker threads call it at the same time."""
        raise NotImplementedError(f"{type(self).__name__} has no sums: a loss on pairs is a subclass that gives them")
