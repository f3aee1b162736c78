"""What a loss on pairs looks at: some rows of a batch against all that they are compared with."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """Pairs of a block: the row's number and the column of what it is compared with, (T,)."""

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

    A pair of one and the same training row, perhaps as it was embedded earlier, is neither positive nor negative.
    """

    cosines: Tensor  # (b, R), without gradient, for choosing pairs. A loss is made of differentiable() and all_cosines
    labels: Tensor  # of the rows, (b,)
    rows: Tensor  # which training rows they are, (b,)
    against_labels: Tensor  # of the columns, (R,)
    against_rows: Tensor  # which training rows those are, (R,)
    dim: int  # E, the size of the embeddings
    seed: int  # of what is drawn for this block
    learn: bool = False  # whether gradients are wanted
    requested: list[tuple[Pairs, Tensor]] = field(default_factory=list)  # pairs of differentiable(), and their cosines

    @cached_property
    def generator(self) -> torch.Generator:
        """Random numbers of this block alone, whichever thread works on it; on the CPU."""
        return torch.Generator().manual_seed(self.seed)

    @cached_property
    def same_label(self) -> Tensor:
        return self.labels[:, None] == self.against_labels  # (b, R)

    @cached_property
    def is_positive(self) -> Tensor:
        positive = self.same_label.clone()
        positive[self.self_pairs.row, self.self_pairs.column] = False
        return positive

    @property
    def self_pairs(self) -> Pairs:
        """Pairs of one training row."""
        return self._split[0]

    @property
    def positives(self) -> Pairs:
        """Every positive pair, row after row."""
        return self._split[1]

    @cached_property
    def negative_cosines(self) -> Tensor:
        """The cosines (b, R), -inf where the pair is no negative."""
        return self.cosines.masked_fill(self.same_label, -torch.inf)

    @cached_property
    def all_cosines(self) -> Tensor:
        return self.cosines.detach().requires_grad_(self.learn)

    def cosines_of(self, row: Tensor, column: Tensor) -> Tensor:
        """The cosines (T,) of pairs, without gradient."""
        return self.cosines.view(-1).gather(0, row * self.cosines.shape[1] + column)

    def cosines_of_triplets(self, triplets: Triplets) -> tuple[Tensor, Tensor]:
        row, positive, negative = triplets
        return self.cosines_of(row, positive), self.cosines_of(row, negative)

    def differentiable(self, row: Tensor, column: Tensor) -> Tensor:
        """The cosines (T,) of pairs, to be differentiated; their rows ascend."""
        cosines = self.cosines_of(row, column).requires_grad_(self.learn)
        self.requested.append((Pairs(row, column), cosines))
        return cosines

    @cached_property
    def _split(self) -> tuple[Pairs, Pairs]:
        """The pairs of one label: those of one training row, and the others."""
        row, column = self.same_label.nonzero(as_tuple=True)
        itself = self.rows[row] == self.against_rows[column]
        return Pairs(row[itself], column[itself]), Pairs(row[~itself], column[~itself])


def place_in_row(row: Tensor) -> Tensor:
    """How many equal numbers precede each of ``row`` (T,), which ascend."""
    return torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)


@dataclass(frozen=True)
class PairStatistics:
    """What a loss was made of, summed over blocks and steps."""

    chosen: float = 0  # how many pairs, triplets or rows
    zero: float = 0  # how many of them have no loss
    positive: float = 0  # the sum of the cosines of the positive pairs that were looked at
    positives: float = 0  # how many these are
    negative: float = 0  # the sum of the cosines of the negative pairs
    negatives: float = 0  # how many these are

    def __add__(self, other: PairStatistics) -> PairStatistics:
        return PairStatistics(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))

    @property
    def zero_share(self) -> float | None:
        return self.zero / self.chosen if self.chosen else None

    @property
    def hardness(self) -> float | None:
        """The mean cosine of the negatives minus that of the positives."""
        if not self.positives or not self.negatives:
            return None
        return self.negative / self.negatives - self.positive / self.positives


def statistics_of(chosen: float, zero: Tensor | float, positive: Tensor, negative: Tensor) -> PairStatistics:
    """Those of so many losses, of which ``zero`` are 0, with these cosines of their pairs."""
    near, far = (float(cosines.detach().sum(dtype=torch.float64)) for cosines in (positive, negative))
    return PairStatistics(chosen, float(zero), near, positive.numel(), far, negative.numel())


def statistics_of_all(block: Block, chosen: float, zero: float) -> PairStatistics:
    """Those of a loss that looks at every pair of ``block``."""
    positives, self_pairs = block.positives, block.self_pairs
    positive, own = (float(block.cosines_of(*pairs).sum(dtype=torch.float64)) for pairs in (positives, self_pairs))
    negative = float(block.cosines.sum(1).sum(dtype=torch.float64)) - positive - own
    negatives = block.cosines.numel() - len(positives.row) - len(self_pairs.row)
    return PairStatistics(chosen, zero, positive, len(positives.row), negative, negatives)


def distance_of(cosine: Tensor) -> Tensor:
    """The distance of two vectors of unit length with ``cosine``, any shape; where it is 0 its slope is 0 too."""
    return (2 - 2 * cosine).clamp_min(4 * torch.finfo(cosine.dtype).eps).sqrt()
