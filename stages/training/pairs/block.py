"""What a loss on pairs looks at: some rows of a batch against all that they are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class Places(NamedTuple):
    """Pairs of a block: the number of the row and that of what it is compared with, each (T,)."""

    row: Tensor
    column: Tensor


class Triplets(NamedTuple):
    """Rows with a positive and a negative each: the row's number and the columns of both, (T,)."""

    row: Tensor
    positive: Tensor
    negative: Tensor


@dataclass(frozen=True, eq=False)
class Block:
    """Cosines (b, R) of b rows of a batch with R embeddings: those of the batch, then those of the memory.

    Attributes:
        cosines: (b, R); autograd differentiates what a loss makes of them.
        labels: of the rows, (b,).
        alike: (b, R), whether the labels are equal.
        itself: (b, R), whether both are one and the same training row, perhaps as it was embedded earlier. Such a pair
            is neither positive nor negative. It is always ``alike``.
        dim: E, the size of the embeddings.
        seed: of what is drawn for this block.
    """

    cosines: Tensor
    labels: Tensor
    alike: Tensor
    itself: Tensor
    dim: int
    seed: int

    @cached_property
    def generator(self) -> torch.Generator:
        """Random numbers of this block alone, whichever thread works on it."""
        return torch.Generator().manual_seed(self.seed)

    @cached_property
    def other(self) -> Tensor:
        """(b, R), whether it is a negative."""
        return ~self.alike

    @cached_property
    def same(self) -> Tensor:
        """(b, R), whether it is a positive."""
        return self.alike & ~self.itself

    @cached_property
    def positives(self) -> Places:
        """Every positive pair, row after row."""
        return Places(*self.same.nonzero(as_tuple=True))

    @cached_property
    def of_negatives(self) -> Tensor:
        """The cosines (b, R) without gradient, -inf where it is no negative."""
        return self.cosines.detach().masked_fill(self.alike, -torch.inf)

    @cached_property
    def of_positives(self) -> Tensor:
        """The cosines (b, R) without gradient, NaN where it is no positive."""
        return self.cosines.detach().masked_fill(~self.same, torch.nan)

    def at(self, row: Tensor, column: Tensor) -> Tensor:
        """The cosines (T,) of pairs."""
        return self.cosines.view(-1).gather(0, row * self.cosines.shape[1] + column)


class Found(NamedTuple):
    """What a loss was made of, summed over blocks and steps.

    Attributes:
        chosen: how many pairs, triplets or rows.
        zero: how many of them have no loss.
        positive: the sum of the cosines of the positive pairs that were looked at.
        positives: how many these are.
        negative: the sum of the cosines of the negative pairs.
        negatives: how many these are.
    """

    chosen: float = 0
    zero: float = 0
    positive: float = 0
    positives: float = 0
    negative: float = 0
    negatives: float = 0

    def plus(self, more: Found) -> Found:
        """Both together."""
        return Found(*(one + other for one, other in zip(self, more, strict=True)))

    @property
    def zero_share(self) -> float | None:
        """The share without a loss; None where nothing was chosen."""
        return self.zero / self.chosen if self.chosen else None

    @property
    def hardness(self) -> float | None:
        """The mean cosine of the negatives minus that of the positives; None where there are none of either."""
        if not self.positives or not self.negatives:
            return None
        return self.negative / self.negatives - self.positive / self.positives


def found_in(cosines: Tensor, zero: Tensor | float, positive: Tensor, negative: Tensor) -> Found:
    """What was found where ``cosines`` chosen (T,) losses, of which ``zero`` are 0, have these cosines."""
    return Found(
        len(cosines),
        float(zero),
        float(positive.detach().sum(dtype=torch.float64)),
        positive.numel(),
        float(negative.detach().sum(dtype=torch.float64)),
        negative.numel(),
    )


def found_in_all(block: Block, chosen: float, zero: float) -> Found:
    """What was found where every pair of ``block`` was looked at."""
    cosines = block.cosines.detach()
    alike = cosines[block.alike].sum(dtype=torch.float64)
    positive = block.at(*block.positives).detach()
    return Found(
        chosen,
        zero,
        float(positive.sum(dtype=torch.float64)),
        len(positive),
        float(cosines.sum(dtype=torch.float64) - alike),
        cosines.numel() - int(block.alike.sum()),
    )
