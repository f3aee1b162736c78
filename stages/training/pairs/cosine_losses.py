"""Losses on all cosines of a row: multi-similarity, SupCon, and the smooth ranks of Smooth-AP and Recall@k.

PyTorch Metric Learning's multi-similarity takes several times as long, its SupCon twice. Its Smooth-AP needs memory of
the size of B x B x B, and reads its groups wrongly unless a batch has as many classes as images a class.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stages.training.pairs.block import Block, Pairs, PairStatistics, place_in_row, statistics_of_all
from stages.training.pairs.kinds import MultiSimilarityConfig, RecallConfig, SmoothApConfig, SupConConfig
from stages.training.pairs.rows import PairRule, Sums

_NOTHING = -1e30  # an exponent that adds nothing; with an infinite one a row of nothing has no gradient


class MultiSimilarity(PairRule):
    """A row's loss by its positives and negatives. PyTorch Metric Learning's takes several times as long."""

    def __init__(self, config: MultiSimilarityConfig) -> None:
        super().__init__()
        self.config = config

    def sums(self, block: Block) -> Sums:
        config, (row, column) = self.config, block.positives
        with torch.no_grad():
            cosines = block.cosines_of(row, column)
            near = cosines - config.slack_cos < block.negative_cosines.amax(1)[row]
            farthest = cosines.new_full((len(block.cosines),), torch.inf).scatter_reduce(0, row, cosines, "amin")
            far = block.negative_cosines <= (farthest - config.slack_cos)[:, None]  # and what is no negative
            row, column = row[near], column[near]
            several = int(torch.bincount(row, minlength=1).max())
        exponents = block.cosines.new_full((len(block.cosines), several + 1), _NOTHING)
        own = config.positive_scale * (config.threshold_cos - block.differentiable(row, column))
        of_positives = _log_of_one_plus(exponents.index_put((row, place_in_row(row)), own)) / config.positive_scale
        exponents = config.negative_scale * (block.all_cosines - config.threshold_cos)
        of_negatives = _log_of_one_plus(exponents.masked_fill(far, _NOTHING)) / config.negative_scale
        losses = of_positives + of_negatives
        positive = float(block.cosines_of(row, column).sum(dtype=torch.float64))
        negative = float(block.cosines.masked_fill(far, 0.0).sum(1).sum(dtype=torch.float64))
        negatives, zero = far.numel() - int(far.sum()), float((losses == 0).sum())
        statistics = PairStatistics(len(losses), zero, positive, len(row), negative, negatives)
        return Sums(losses.sum()[None], losses.new_tensor([len(losses)]), statistics)


def _log_of_one_plus(exponents: Tensor) -> Tensor:
    """log(1 + the sum of exp(``exponents``)) of each row of (b, n)."""
    return functional.softplus(torch.logsumexp(exponents, 1))


class SupCon(PairRule):
    """A row's loss by all its pairs. PyTorch Metric Learning's takes twice the time for the same value."""

    def __init__(self, config: SupConConfig) -> None:
        super().__init__()
        self.scale = config.scale

    def sums(self, block: Block) -> Sums:
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


class Ranks(PairRule):
    """Smooth-AP and Recall@k, by the smooth ranks of a row's positives: the mean over the rows that have any."""

    numbers = 8  # about so many positives a row

    def __init__(self, config: SmoothApConfig | RecallConfig) -> None:
        super().__init__()
        self.config = config

    def sums(self, block: Block) -> Sums:
        # The rank of a positive of cosine c is 1 + sum_z [c_z > c] over the other columns z, with sigmoid(scale x) in
        # place of the step [x > 0]; (T, R) numbers at a time. The row itself is left out, as a query is of its results.
        row, column = block.positives
        own = block.differentiable(row, column)[:, None]
        above = torch.sigmoid(self.config.scale * (block.all_cosines[row] - own))  # (T, R)
        above = above.masked_fill((block.same_label & ~block.is_positive)[row], 0.0).scatter(1, column[:, None], 0.0)
        rank, positives = 1 + above.sum(1), block.is_positive.sum(1)
        several, count = positives.clamp(min=1)[row], (positives > 0).sum()
        if isinstance(self.config, RecallConfig):  # whether each positive is among the first k, for several k
            ks = torch.tensor(self.config.ks, device=positives.device)
            inside = torch.sigmoid(self.config.rank_scale * (ks - rank[:, None]))  # (T, len(ks))
            gained = (inside / torch.minimum(ks, several[:, None])).sum() / len(ks)
        else:
            among_positives = 1 + torch.where(block.is_positive[row], above, 0.0).sum(1)
            gained = (among_positives / rank / several).sum()  # the precision at a rank is the first ratio
        rows = float(len(block.cosines))
        statistics = statistics_of_all(block, rows, rows - float(count))
        return Sums((count - gained)[None], count[None].to(block.cosines.dtype), statistics)
