"""Losses of smooth ranks: where each positive stands among all that a row is compared with, differentiably.

Smooth-AP is average precision (Brown et al., ECCV 2020), the surrogate of Recall@k that of Patel et al. (CVPR 2022).
PyTorch Metric Learning's Smooth-AP needs memory of the size of B x B x B, and reads its groups wrongly unless a batch
has as many classes as images a class, so this one is our own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cache.errors import SettingsError
from stages.training.pairs.block import Block, statistics_of_all
from stages.training.pairs.loss import RowWiseConfig
from stages.training.pairs.rows import PairRule, Sums

_POSITIVES = 8  # about so many a row


@dataclass(frozen=True)
class SmoothApConfig(RowWiseConfig):
    """Smooth-AP: 1 - the mean over the rows of the average precision with which each finds its class in the batch.

    Args:
        scale: of the sigmoid that stands for a step, on a difference of cosines; one over its temperature.
    """

    kind: Literal["smooth_ap"] = "smooth_ap"
    scale: float = 100.0

    def __post_init__(self) -> None:
        _check_scale("scale", self.scale)

    def _rule(self, _classes: int) -> PairRule:
        return _SmoothAp(self.scale)


@dataclass(frozen=True)
class RecallConfig(RowWiseConfig):
    """Recall@k surrogate: 1 - the mean over rows and k of sum_p sigmoid(rank_scale (k - rank_p)) / min(k, positives).

    Args:
        ks: at which ranks.
        scale: of the sigmoid in a rank, on a difference of cosines; one over its temperature.
        rank_scale: of the sigmoid on a difference of ranks.
    """

    kind: Literal["recall"] = "recall"
    ks: tuple[int, ...] = (1, 2, 4, 8, 16)
    scale: float = 100.0
    rank_scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1 or len({*self.ks}) < len(self.ks):
            raise SettingsError(f"ks are different ranks from 1, at least one, got {list(self.ks)}")
        _check_scale("scale", self.scale)
        _check_scale("rank_scale", self.rank_scale)

    def _rule(self, _classes: int) -> PairRule:
        return _Recall(self)


def _check_scale(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise SettingsError(f"{name} is a factor, above 0 and finite, got {value}")


class _RankRule(PairRule):
    """A loss by the smooth ranks of a row's positives: the mean over the rows that have any."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self._scale = scale

    def row_size(self, columns: int) -> int:
        return _POSITIVES * columns

    def sums(self, block: Block) -> Sums:
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


class _SmoothAp(_RankRule):
    def gain(self, rank: Tensor, among_positives: Tensor, positives: Tensor) -> Tensor:
        return (among_positives / rank / positives).sum()  # the precision at a rank is the first ratio


class _Recall(_RankRule):
    """Whether each positive is among the first k, for several k."""

    def __init__(self, config: RecallConfig) -> None:
        super().__init__(config.scale)
        self._config = config

    def gain(self, rank: Tensor, _among_positives: Tensor, positives: Tensor) -> Tensor:
        ks = torch.tensor(self._config.ks, device=positives.device)
        inside = torch.sigmoid(self._config.rank_scale * (ks - rank[:, None]))  # (T, len(ks))
        return (inside / torch.minimum(ks, positives[:, None])).sum() / len(ks)
