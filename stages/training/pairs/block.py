"""What a loss on pairs looks at: some rows of a batch against all that they are compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
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


class Taken(NamedTuple):
    """Cosines (T,) of pairs that a loss asked for, a leaf that autograd differentiates by."""

    places: Places
    cosines: Tensor


@dataclass(frozen=True, eq=False)
class Block:
    """Cosines (b, R) of b rows of a batch with R embeddings: those of the batch, then those of the memory.

    A pair of one and the same training row, perhaps as it was embedded earlier, is neither positive nor negative.

    Attributes:
        cosines: (b, R), without gradient: what is chosen by. A loss is made of :meth:`at` and :attr:`every`.
        labels: of the rows, (b,).
        rows: which training rows they are, (b,).
        against_labels: of the columns, (R,).
        against_rows: which training rows those are, (R,).
        dim: E, the size of the embeddings.
        seed: of what is drawn for this block.
        learn: whether gradients are wanted.
    """

    cosines: Tensor
    labels: Tensor
    rows: Tensor
    against_labels: Tensor
    against_rows: Tensor
    dim: int
    seed: int
    learn: bool = False
    taken: list[Taken] = field(default_factory=list)
    """What :meth:`at` gave."""

    @cached_property
    def generator(self) -> torch.Generator:
        """Random numbers of this block alone, whichever thread works on it."""
        return torch.Generator().manual_seed(self.seed)

    @cached_property
    def alike(self) -> Tensor:
        """(b, R), whether the labels are equal."""
        return self.labels[:, None] == self.against_labels

    @cached_property
    def other(self) -> Tensor:
        """(b, R), whether it is a negative."""
        return ~self.alike

    @cached_property
    def itself(self) -> Places:
        """Pairs of one training row."""
        return self._alike(same_row=True)

    @cached_property
    def positives(self) -> Places:
        """Every positive pair, row after row."""
        return self._alike(same_row=False)

    @cached_property
    def same(self) -> Tensor:
        """(b, R), whether it is a positive."""
        same = self.alike.clone()
        same[self.itself.row, self.itself.column] = False
        return same

    @cached_property
    def of_negatives(self) -> Tensor:
        """The cosines (b, R), -inf where it is no negative."""
        return self.cosines.masked_fill(self.alike, -torch.inf)

    def each_positive(self, otherwise: float) -> tuple[Tensor, Tensor]:
        """The cosines (b, P) of each row's positives and their columns, ``otherwise`` where a row has fewer than P.

        P is at least 1.
        """
        row, column = self.positives
        turn = turns(row)
        most = int(turn.max()) + 1 if len(turn) else 1
        cosines = self.cosines.new_full((len(self.cosines), most), otherwise)
        columns = column.new_zeros(cosines.shape)
        cosines[row, turn], columns[row, turn] = self.look(row, column), column
        return cosines, columns

    @cached_property
    def every(self) -> Tensor:
        """All cosines (b, R), to be differentiated."""
        return self.cosines.detach().requires_grad_(self.learn)

    def look(self, row: Tensor, column: Tensor) -> Tensor:
        """The cosines (T,) of pairs, without gradient."""
        return self.cosines.view(-1).gather(0, row * self.cosines.shape[1] + column)

    def at(self, row: Tensor, column: Tensor) -> Tensor:
        """The cosines (T,) of pairs, to be differentiated; their rows ascend."""
        cosines = self.look(row, column).requires_grad_(self.learn)
        self.taken.append(Taken(Places(row, column), cosines))
        return cosines

    @cached_property
    def _all_alike(self) -> Places:
        return Places(*self.alike.nonzero(as_tuple=True))

    def _alike(self, *, same_row: bool) -> Places:
        row, column = self._all_alike
        kept = (self.rows[row] == self.against_rows[column]) == same_row
        return Places(row[kept], column[kept])


def turns(row: Tensor) -> Tensor:
    """How many equal numbers stand before each of ``row`` (T,), which ascend."""
    return torch.arange(len(row)) - torch.searchsorted(row, row)


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
    positive, itself = (float(block.look(*of).sum(dtype=torch.float64)) for of in (block.positives, block.itself))
    alike = len(block.positives.row) + len(block.itself.row)
    negative = float(block.cosines.sum(1).sum(dtype=torch.float64)) - positive - itself
    return Found(chosen, zero, positive, len(block.positives.row), negative, block.cosines.numel() - alike)
