"""Recall at k with steps made smooth (Patel et al., Recall@k surrogate, CVPR 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stages.training.pairs.loss import RowWiseConfig
from stages.training.pairs.ranks import RankRule, Ranks, check_scale
from stages.training.pairs.rule import PairRule


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
            raise ValueError(f"ks are different ranks from 1, at least one, got {list(self.ks)}")
        check_scale("scale", self.scale)
        check_scale("rank_scale", self.rank_scale)

    def rule(self, classes: int) -> PairRule:
        """See :class:`RowWiseConfig`."""
        del classes
        return Recall(self)


class Recall(RankRule):
    """Whether each positive is among the first k, for several k."""

    def __init__(self, config: RecallConfig) -> None:
        super().__init__(config.scale)
        self._config = config

    def gain(self, ranks: Ranks, positives: Tensor) -> Tensor:
        """See :class:`RankRule`."""
        ks = torch.tensor(self._config.ks, device=positives.device)
        inside = torch.sigmoid(self._config.rank_scale * (ks - ranks.among_all[:, None]))  # (T, len(ks))
        return (inside / torch.minimum(ks, positives[:, None])).sum() / len(ks)
