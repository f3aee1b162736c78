"""Smooth-AP: average precision with steps made smooth (Brown et al., ECCV 2020).

PyTorch Metric Learning's needs memory of the size of B x B x B, and reads its groups wrongly unless a batch has as many
classes as images a class, so this one is our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from stages.training.pairs.loss import RowWiseConfig
from stages.training.pairs.ranks import RankRule, Ranks, check_scale
from stages.training.pairs.rule import PairRule


@dataclass(frozen=True)
class SmoothApConfig(RowWiseConfig):
    """Smooth-AP: 1 - the mean over the rows of the average precision with which each finds its class in the batch.

    Args:
        scale: of the sigmoid that stands for a step, on a difference of cosines; one over its temperature.
    """

    kind: Literal["smooth_ap"] = "smooth_ap"
    scale: float = 100.0

    def __post_init__(self) -> None:
        check_scale("scale", self.scale)

    def rule(self, classes: int) -> PairRule:
        """See :class:`RowWiseConfig`."""
        del classes
        return SmoothAp(self.scale)


class SmoothAp(RankRule):
    """The precision at the rank of each positive."""

    def gain(self, ranks: Ranks, positives: Tensor) -> Tensor:
        """See :class:`RankRule`."""
        # Precision at the rank of positive p is its rank among the row's positives over that among all.
        return (ranks.among_positives / ranks.among_all / positives).sum()
