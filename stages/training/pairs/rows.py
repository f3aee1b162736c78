"""A loss on pairs, some rows at a time: nothing of the size of all pairs is listed or kept.

::

    unit embeddings (B, E) x [batch, memory] (R, E) --a block of rows--> cosines (b, R) --rule--> totals, counts
                                                                      --autograd--> gradient, added up, released

Each worker thread computes blocks of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.training.pairs.block import Block, Pairs, PairStatistics
from stages.training.worker_threads import in_worker_threads, worker_count

_NUMBERS = 2**21  # of a block: 8 MiB of float32; matrix products of fewer rows take longer for each
_LEAST = 2**15  # a batch of fewer than twice as many is not cut for the sake of worker threads
_SPARSE = 16  # of so many pairs or more one that counts: a sum over those that do takes less than a matrix product
_CUTS = 4  # so many blocks, or a multiple: how rows are cut does not follow from the number of threads


class Sums(NamedTuple):
    """What one block of rows adds to a loss: the loss is the sum over the S parts of total / count, over all blocks."""

    totals: Tensor  # (S,), differentiable by the block's cosines and the rule's parameters
    counts: Tensor  # (S,), constants; a part whose count is 0 is left out
    statistics: PairStatistics  # for the log


class PairRule(nn.Module):
    """A loss as a function of blocks of cosines. Its parameters are trained with the head."""

    parts: ClassVar[int] = 1  # S: how many parts are summed and divided each by itself
    numbers: ClassVar[int] = 1  # about how many numbers in memory a cosine takes while its block is computed

    def at(self, share: float) -> None:
        """Set the schedules to where they stand after ``share`` of the training, in [0, 1]."""

    def sums(self, block: Block) -> Sums:
        """What ``block`` adds. Worker threads call it at the same time."""
        raise NotImplementedError(f"{type(self).__name__} has no sums: a loss on pairs is a subclass that gives them")


# With U (B, E) the batch and A (R, E) = [U, memory], c_ij = u_i a_j, and a loss of S parts is sum_s T_s / n_s, each T_s
# a sum over blocks of rows. Of one block of rows I, autograd gives g = dT_s/dc (b, R), and a pair's cosine passes it to
# both of its embeddings:
#
#     dT_s/dU[I] += g A                by the rows, with everything they are compared with
#     dT_s/dU    += g[:, :B]' U[I]     by the columns that lie in the batch; the memory has no gradient
#
# n_s is known only after the last block, so that gradients are added up for each part and divided at the end. Where a
# rule asks for T single pairs, g has T numbers that are not zero, and the products are sums over these (_add_by_pairs).


class _WorkerSums:
    """What one worker thread adds up over its blocks, for each of S parts: totals, counts, and gradients."""

    def __init__(self, rule: PairRule, unit: Tensor, against: Tensor, parameters: Sequence[Tensor]) -> None:
        self.rule, self.unit, self.against, self.parameters = rule, unit, against, parameters
        self.totals, self.counts = unit.new_zeros(rule.parts), unit.new_zeros(rule.parts)
        self.gradients = [weight.new_zeros(rule.parts, *weight.shape) for weight in (unit, *parameters)]
        self.statistics = PairStatistics()

    def add(self, block: Block, inside: slice) -> None:
        """Add what ``block``, the rows ``inside`` of the batch, gives to the loss and to its gradients."""
        with torch.set_grad_enabled(block.learn):
            added = self.rule.sums(block)
            totals = added.totals.unbind()
        self.totals += added.totals.detach()
        self.counts += added.counts
        self.statistics += added.statistics
        for part, total in enumerate(totals):
            if not total.requires_grad:
                continue
            leaves = [block.all_cosines, *self.parameters, *(cosines for _, cosines in block.requested)]
            more = part + 1 < len(totals)
            by_all, *rest = torch.autograd.grad(total, leaves, retain_graph=more, allow_unused=True)
            by_unit, *by_parameters = (gradient[part] for gradient in self.gradients)
            if by_all is not None:
                by_unit[inside] += by_all @ self.against
                by_unit += by_all[:, : len(self.unit)].T @ self.unit[inside]
            for summed, gradient in zip(by_parameters, rest, strict=False):
                if gradient is not None:
                    summed += gradient
            for (pairs, _), gradient in zip(block.requested, rest[len(by_parameters) :], strict=True):
                if gradient is not None:
                    self._add_by_pairs(by_unit, pairs, gradient, inside)

    def _add_by_pairs(self, by_unit: Tensor, pairs: Pairs, by_cosine: Tensor, inside: slice) -> None:
        """Add the gradient by embeddings (B, E) that follows from that by the cosines (T,) of ``pairs``."""
        row, column = pairs
        rows, size = self.unit[inside], len(self.unit)
        in_batch = column < size
        if len(row) * _SPARSE < len(rows) * size:
            by_unit[inside] += _weighted_sums(row, len(rows), column, by_cosine, self.against)
            order = torch.argsort(column[in_batch], stable=True)
            row, column, by_cosine = (each[in_batch][order] for each in (row, column, by_cosine))
            by_unit += _weighted_sums(column, size, row, by_cosine, rows)
            return
        within = rows.new_zeros(len(rows) * size)
        within.scatter_add_(0, row[in_batch] * size + column[in_batch], by_cosine[in_batch])
        within = within.view(-1, size)
        by_unit[inside] += within @ self.unit
        by_unit += within.T @ rows
        if len(self.against) > size:
            row, column, by_cosine = (each[~in_batch] for each in (row, column, by_cosine))
            by_unit[inside] += _weighted_sums(row, len(within), column, by_cosine, self.against)


class LossOfRows(torch.autograd.Function):
    """The loss of embeddings ``unit`` (B, E) of unit length, a scalar; ``statistics`` gets those of its pairs.

    They are compared with each other and with the ``memory`` (R - B, E), which has no gradient. ``labels`` and training
    ``rows`` are those of the batch and then of the memory, (R,); ``seed`` is for what is drawn.
    """

    @staticmethod
    def forward(
        ctx: Any,
        unit: Tensor,
        rule: PairRule,
        memory: Tensor,
        labels: Tensor,
        rows: Tensor,
        seed: int,
        statistics: list[PairStatistics],
        *parameters: Tensor,
    ) -> Tensor:
        learn = any(ctx.needs_input_grad)
        against = torch.cat([unit, memory.to(unit.dtype)])
        numbers, size = rule.numbers * len(unit) * len(against), len(unit)
        if numbers >= 2 * _LEAST:
            blocks = math.ceil(math.ceil(numbers / _NUMBERS) / _CUTS) * _CUTS
            size = math.ceil(len(unit) / blocks)
        starts = range(0, len(unit), size)
        workers = min(worker_count(unit.device), len(starts))

        def work(worker: int) -> _WorkerSums:
            sums = _WorkerSums(rule, unit, against, parameters)
            for low in starts[worker::workers]:
                inside = slice(low, min(low + size, len(unit)))
                known = labels[inside], rows[inside], labels, rows
                sums.add(Block(unit[inside] @ against.T, *known, unit.shape[1], seed + low, learn), inside)
            return sums

        parts = in_worker_threads(work, workers)
        totals = torch.stack([part.totals for part in parts]).sum(0)
        counts = torch.stack([part.counts for part in parts]).sum(0)
        statistics.append(sum((part.statistics for part in parts[1:]), parts[0].statistics))
        weight = torch.where(counts > 0, counts, torch.inf).reciprocal()
        if learn:
            gradients = (torch.stack(of_one).sum(0) for of_one in zip(*(part.gradients for part in parts), strict=True))
            ctx.save_for_backward(*(torch.tensordot(weight, gradient, 1) for gradient in gradients))
        return weight @ totals

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        by_unit, *by_parameters = (slope * gradient for gradient in ctx.saved_tensors)
        return by_unit, *[None] * 6, *by_parameters


def _weighted_sums(row: Tensor, rows: int, column: Tensor, weight: Tensor, vectors: Tensor) -> Tensor:
    """A matrix (``rows``, V) of ``weight`` (T,) at ``row``, ascending, and ``column``, times ``vectors`` (V, E)."""
    starts = torch.searchsorted(row, torch.arange(rows, device=row.device))
    return functional.embedding_bag(column, vectors, starts, mode="sum", per_sample_weights=weight)
