"""Multi-similarity loss: pairs weighed by how they compare with the others of a row (Wang et al., CVPR 2019)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from stages.training.pairs.block import Block, Pairs, PairStatistics, place_in_row
from stages.training.pairs.kinds import MultiSimilarityConfig
from stages.training.pairs.rows import PairRule, Sums

_NOTHING = -1e30  # an exponent that adds nothing; with an infinite one a row of nothing has no gradient


class MultiSimilarity(PairRule):
    """A row's loss by its positives and negatives. PyTorch Metric Learning's takes several times as long."""

    def __init__(self, config: MultiSimilarityConfig) -> None:
        super().__init__()
        self.config = config

    def sums(self, block: Block) -> Sums:
        """See :class:`PairRule`."""
        config = self.config
        with torch.no_grad():
            (row, column), far = self._chosen(block)
            several = int(torch.bincount(row, minlength=1).max())
        exponents = block.cosines.new_full((len(block.cosines), several + 1), _NOTHING)
        own = config.positive_scale * (config.threshold_cos - block.differentiable(row, column))
        of_positives = _log_of_one_plus(exponents.index_put((row, place_in_row(row)), own)) / config.positive_scale
        exponents = config.negative_scale * (block.all_cosines - config.threshold_cos)
        of_negatives = _log_of_one_plus(exponents.masked_fill(far, _NOTHING)) / config.negative_scale
        losses = of_positives + of_negatives
        positive = block.cosines_of(row, column).sum(dtype=torch.float64)
        negative = block.cosines.masked_fill(far, 0.0).sum(1).sum(dtype=torch.float64)
        counted = float(positive), len(row), float(negative), far.numel() - int(far.sum())
        statistics = PairStatistics(len(losses), float((losses == 0).sum()), *counted)
        return Sums(losses.sum()[None], losses.new_tensor([len(losses)]), statistics)

    def _chosen(self, block: Block) -> tuple[Pairs, Tensor]:
        """The positives that are looked at, and (b, R) what is no negative that is."""
        slack, (row, column) = self.config.slack_cos, block.positives
        cosines = block.cosines_of(row, column)
        near = cosines - slack < block.negative_cosines.amax(1)[row]
        farthest = cosines.new_full((len(block.cosines),), torch.inf).scatter_reduce(0, row, cosines, "amin")
        return Pairs(row[near], column[near]), block.negative_cosines <= (farthest - slack)[:, None]


def _log_of_one_plus(exponents: Tensor) -> Tensor:
    """log(1 + the sum of exp(``exponents``)) of each row of (b, n)."""
    return functional.softplus(torch.logsumexp(exponents, 1))
