"""Losses of smooth ranks: where each positive stands among all that a row is compared with, differentiably.

Smooth-AP is average precision (Brown et al., ECCV 2020), the surrogate of Recall@k that of Patel et al. (CVPR 2022).
PyTorch Metric Learning's Smooth-AP needs memory of the size of B x B x B, and reads its groups wrongly unless a batch
has as many classes as images a class, so this one is our own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stages.training.pairs.block import Block, statistics_of_all
from stages.training.pairs.kinds import RecallConfig
from stages.training.pairs.rows import PairRule, Sums

_POSITIVES = 8  # about so many a row


class _RankRule(PairRule):
    """A loss by the smooth ranks of a row's positives: the mean over the rows that have any."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self._scale = scale

    def row_size(self, columns: int) -> int:
        """See :class:`PairRule`."""
        return _POSITIVES * columns

    def sums(self, block: Block) -> Sums:
        """See :class:`PairRule`."""
        # The rank of a positive of cosine c is 1 + sum_z [c_z > c] over the other columns z, with sigmoid(scale x) in
        # place of the step [x > 0]; (T, R) numbers at a time. The row itself is left out, as a query is of its results.
        row, column = block.positives
        own = block.differentiable(row, column)[:, None]
        above = torch.sigmoid(self._scale * (block.all_cosines[row] - own))  # (T, R)
        above = above.masked_fill((block.same_label & ~block.is_positive)[row], 0.0).scatter(1, column[:, None], 0.0)
        among_positives = 1 + torch.where(block.is_positive[row], above, 0.0).sum(1)
        positives = block.is_positive.sum(1)
        count = (positives > 0).sum()
        gained = self.gain(1 + above.sum(1), among_positives, positives.clamp(min=1)[row])
        rows = float(len(block.cosines))
        statistics = statistics_of_all(block, rows, rows - float(count))
        return Sums((count - gained)[None], count[None].to(block.cosines.dtype), statistics)

    def gain(self, rank: Tensor, among_positives: Tensor, positives: Tensor) -> Tensor:
        """The sum over all of T positive pairs, each row's at most 1.

        Of each pair (T,) the ``rank`` from 1, that ``among_positives`` of its row, and how many ``positives`` that has.
        """
        raise NotImplementedError


class SmoothAp(_RankRule):
    """See :class:`SmoothApConfig`."""

    def gain(self, rank: Tensor, among_positives: Tensor, positives: Tensor) -> Tensor:
        """See :class:`PairRule`."""
        return (among_positives / rank / positives).sum()  # the precision at a rank is the first ratio


class Recall(_RankRule):
    """Whether each positive is among the first k, for several k."""

    def __init__(self, config: RecallConfig) -> None:
        super().__init__(config.scale)
        self._config = config

    def gain(self, rank: Tensor, _among_positives: Tensor, positives: Tensor) -> Tensor:
        """See :class:`PairRule`."""
        ks = torch.tensor(self._config.ks, device=positives.device)
        inside = torch.sigmoid(self._config.rank_scale * (ks - rank[:, None]))  # (T, len(ks))
        return (inside / torch.minimum(ks, positives[:, None])).sum() / len(ks)
