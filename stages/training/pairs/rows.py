"""A loss on pairs, some rows at a time: nothing of the size of all pairs is listed or kept.

::

    unit embeddings (B, E) x [batch, memory] (B + M, E) --a block of rows--> cosines (b, B + M) --rule--> totals, counts
                                                                          --autograd--> gradient, added up, forgotten

Each lane works on blocks of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stages.training.pairs.block import Block, Found, Places
from stages.training.pairs.rule import PairRule
from stages.training.worker_threads import in_worker_threads, worker_count

_NUMBERS = 2**21  # of a block: 8 MiB of float32; matrix products of fewer rows take longer for each
_LEAST = 2**15  # a batch of fewer than twice as many is not cut for the sake of lanes
_SPARSE = 16  # of so many pairs or more one that counts: a sum over those that do takes less than a matrix product
_CUTS = 4  # so many blocks, or a multiple: how rows are cut does not follow from the number of threads


@dataclass(frozen=True, eq=False)
class Compared:
    """What a batch (B, E) is compared with: itself, and R - B embeddings that have no gradient.

    Attributes:
        labels: of the batch, (B,).
        rows: the training rows of the batch, (B,).
        memory: unit embeddings (R - B, E).
        memory_labels: (R - B,).
        memory_rows: (R - B,).
        seed: of what is drawn.
    """

    labels: Tensor
    rows: Tensor
    memory: Tensor
    memory_labels: Tensor
    memory_rows: Tensor
    seed: int


def loss_of_rows(rule: PairRule, unit: Tensor, compared: Compared) -> tuple[Tensor, Found]:
    """The loss of embeddings (B, E) of unit length, a scalar, and what was found.

    The gradient reaches both embeddings of a pair that lie in the batch, and the parameters of ``rule``.
    """
    parameters = list(rule.parameters())
    learn = torch.is_grad_enabled() and (unit.requires_grad or any(weight.requires_grad for weight in parameters))
    found: list[Found] = []
    value: Tensor = _RowWise.apply(unit, rule, compared, learn, found, *parameters)
    return value, found[0]


class _Lane:
    """What one lane adds up over its blocks, for each of S parts."""

    def __init__(self, rule: PairRule, unit: Tensor, parameters: list[Tensor]) -> None:
        parts = rule.parts
        self.totals, self.counts = unit.new_zeros(parts), unit.new_zeros(parts)
        self.by_unit = unit.new_zeros(parts, *unit.shape)
        self.by_parameters = [weight.new_zeros(parts, *weight.shape) for weight in parameters]
        self.found = Found()


class _RowWise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        unit: Tensor,
        rule: PairRule,
        compared: Compared,
        learn: bool,
        found: list[Found],
        *parameters: Tensor,
    ) -> Tensor:
        against = torch.cat([unit, compared.memory.to(unit.dtype)])
        labels = torch.cat([compared.labels, compared.memory_labels])
        rows = torch.cat([compared.rows, compared.memory_rows])
        size = _rows_a_block(len(unit), rule.numbers(len(against)))
        starts = range(0, len(unit), size)
        lanes = min(worker_count(unit.device), len(starts))

        def work(lane: int) -> _Lane:
            sums = _Lane(rule, unit, list(parameters))
            for low in starts[lane::lanes]:
                of = slice(low, low + size)
                cosines = unit[of] @ against.T
                known = (compared.labels[of], compared.rows[of], labels, rows)
                block = Block(cosines, *known, unit.shape[1], compared.seed + low, learn)
                _add(sums, rule, block, of, unit, against, list(parameters))
            return sums

        every = in_worker_threads(work, lanes)
        totals = torch.stack([lane.totals for lane in every]).sum(0)
        counts = torch.stack([lane.counts for lane in every]).sum(0)
        found.append(_together([lane.found for lane in every]))
        weight = torch.where(counts > 0, counts, torch.inf).reciprocal()
        if learn:
            by_unit = torch.stack([lane.by_unit for lane in every]).sum(0)
            of_lanes = zip(*(lane.by_parameters for lane in every), strict=True)
            of_weights = [torch.stack(lanes).sum(0) for lanes in of_lanes]
            ctx.save_for_backward(*(torch.tensordot(weight, gradient, 1) for gradient in (by_unit, *of_weights)))
        return weight @ totals

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        by_unit, *by_parameters = (slope * gradient for gradient in ctx.saved_tensors)
        return by_unit, None, None, None, None, *by_parameters


def _add(
    lane: _Lane,
    rule: PairRule,
    block: Block,
    of: slice,
    unit: Tensor,
    against: Tensor,
    parameters: list[Tensor],
) -> None:
    with torch.set_grad_enabled(block.learn):
        sums = rule.sums(block)
        totals = sums.totals.unbind()
    lane.totals += sums.totals.detach()
    lane.counts += sums.counts
    lane.found = lane.found.plus(sums.found)
    for part, total in enumerate(totals):
        if not total.requires_grad:
            continue
        leaves = [block.every, *(taken.cosines for taken in block.taken)]
        by_every, *rest = torch.autograd.grad(
            total, [*leaves, *parameters], retain_graph=part + 1 < rule.parts, allow_unused=True
        )
        by_taken, by_parameters = rest[: len(block.taken)], rest[len(block.taken) :]
        if by_every is not None:
            lane.by_unit[part, of] += by_every @ against
            lane.by_unit[part] += by_every[:, : len(unit)].T @ unit[of]
        for taken, gradient in zip(block.taken, by_taken, strict=True):
            if gradient is not None:
                _through_pairs(lane.by_unit[part], taken.places, gradient, of, unit, against)
        for kept, gradient in zip(lane.by_parameters, by_parameters, strict=True):
            if gradient is not None:
                kept[part] += gradient


def _through_pairs(
    by_unit: Tensor, places: Places, by_cosine: Tensor, of: slice, unit: Tensor, against: Tensor
) -> None:
    """Add the gradient by embeddings (B, E) that follows from that by the cosines (T,) of ``places``."""
    row, column = places
    inside = column < len(unit)
    if len(row) * _SPARSE < len(unit[of]) * len(unit):
        by_unit[of] += _summed(row, len(unit[of]), column, by_cosine, against)
        order = torch.argsort(column[inside], stable=True)
        row, column, by_cosine = (each[inside][order] for each in (row, column, by_cosine))
        by_unit += _summed(column, len(unit), row, by_cosine, unit[of])
        return
    within = unit.new_zeros(len(unit[of]) * len(unit))
    within.scatter_add_(0, row[inside] * len(unit) + column[inside], by_cosine[inside])
    within = within.view(-1, len(unit))
    by_unit[of] += within @ unit
    by_unit += within.T @ unit[of]
    if len(against) > len(unit):
        by_unit[of] += _summed(row[~inside], len(within), column[~inside], by_cosine[~inside], against)


def _summed(row: Tensor, rows: int, column: Tensor, weight: Tensor, vectors: Tensor) -> Tensor:
    """A matrix (``rows``, V) of ``weight`` (T,) at ``row``, ascending, and ``column``, times ``vectors`` (V, E)."""
    starts = torch.searchsorted(row, torch.arange(rows))
    return functional.embedding_bag(column, vectors, starts, mode="sum", per_sample_weights=weight)


def _rows_a_block(rows: int, numbers: int) -> int:
    """How many of a batch's ``rows`` to a block, of which each takes so many ``numbers``."""
    if rows * numbers < 2 * _LEAST:
        return rows
    blocks = -(-rows * numbers // _NUMBERS)
    return -(-rows // (-(-blocks // _CUTS) * _CUTS))


def _together(found: list[Found]) -> Found:
    every = Found()
    for one in found:
        every = every.plus(one)
    return every
