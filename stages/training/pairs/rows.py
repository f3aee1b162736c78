"""A loss on pairs, some rows at a time: nothing of the size of all pairs is listed or kept.

::

    unit embeddings (B, E) x [batch, memory] (B + M, E) --a block of rows--> cosines (b, B + M) --rule--> totals, counts
                                                                          --autograd--> gradient, added up, forgotten

A block's cosines fit into a processor's cache, and each lane works on blocks of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stages.training.lanes import in_lanes, lanes_on
from stages.training.pairs.block import Block, Found
from stages.training.pairs.rule import PairRule

_NUMBERS = 2**18  # of a block: a megabyte of float32


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
        size = max(1, _NUMBERS // rule.numbers(len(against)))
        starts = range(0, len(unit), size)
        lanes = min(lanes_on(unit.device), len(starts))

        def work(lane: int) -> _Lane:
            sums = _Lane(rule, unit, list(parameters))
            for low in starts[lane::lanes]:
                of = slice(low, low + size)
                alike = compared.labels[of, None] == labels
                itself = alike & (compared.rows[of, None] == rows)
                cosines = (unit[of] @ against.T).requires_grad_(learn)
                block = Block(cosines, compared.labels[of], alike, itself, unit.shape[1], compared.seed + low)
                _add(sums, rule, block, of, unit, against, list(parameters), learn=learn)
            return sums

        every = in_lanes(work, lanes)
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
    *,
    learn: bool,
) -> None:
    with torch.set_grad_enabled(learn):
        sums = rule.sums(block)
        totals = sums.totals.unbind()
    lane.totals += sums.totals.detach()
    lane.counts += sums.counts
    lane.found = lane.found.plus(sums.found)
    if not learn or not sums.totals.requires_grad:
        return
    for part, total in enumerate(totals):
        if not total.requires_grad:
            continue
        by_cosine, *by_parameters = torch.autograd.grad(
            total,
            [block.cosines, *parameters],
            retain_graph=part + 1 < rule.parts,
            allow_unused=True,
        )
        if by_cosine is not None:
            lane.by_unit[part, of] += by_cosine @ against
            lane.by_unit[part] += by_cosine[:, : len(unit)].T @ unit[of]
        for kept, gradient in zip(lane.by_parameters, by_parameters, strict=True):
            if gradient is not None:
                kept[part] += gradient


def _together(found: list[Found]) -> Found:
    every = Found()
    for one in found:
        every = every.plus(one)
    return every
