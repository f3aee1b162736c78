"""Supervised contrastive loss: a softmax over a row's pairs (Khosla et al., SupCon, NeurIPS 2020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stages.training.pairs.block import Block, Pairs, statistics_of_all
from stages.training.pairs.rows import PairRule, Sums


class SupCon(PairRule):
    """A row's loss by all its pairs. PyTorch Metric Learning's takes twice the time for the same value."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def sums(self, block: Block) -> Sums:
        """See :class:`PairRule`."""
        row, _ = block.positives
        positives = torch.bincount(row, minlength=len(block.cosines))
        own = block.differentiable(*block.positives) / positives[row]
        every: Tensor = _LogOfSum.apply(block.all_cosines, self.scale, block.self_pairs)
        losses = every[positives > 0].sum() - self.scale * own.sum()
        count = (positives > 0).sum()
        statistics = statistics_of_all(block, len(positives), len(positives) - float(count))
        return Sums(losses[None], count[None].to(losses.dtype), statistics)


class _LogOfSum(torch.autograd.Function):
    """log sum_j exp(scale c_ij) (b,) of cosines (b, R) without the pairs of one row."""

    # With q_ij = exp(s c_ij) / S_i, S_i = sum_j exp(s c_ij): d log S_i / dc_ij = s q_ij, so the softmax q is all that
    # backward needs; autograd would compute it again. At the largest c of a row, log S_i = s c - log q.

    @staticmethod
    def forward(ctx: Any, cosines: Tensor, scale: float, itself: Pairs) -> Tensor:
        """See :class:`PairRule`."""
        logits = cosines * scale
        logits[itself.row, itself.column] = -torch.inf
        largest, at = logits.max(1, keepdim=True)
        shares = torch.softmax(logits, 1)
        shares[largest[:, 0] == -torch.inf] = 0  # rows with nothing to compare with
        ctx.save_for_backward(shares)
        ctx.scale = scale
        return (largest - shares.gather(1, at).log())[:, 0]

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        (shares,) = ctx.saved_tensors
        return shares * (ctx.scale * slope[:, None]), None, None
