"""Margin loss: a learned distance separates positives from negatives (Wu et al., Sampling matters, ICCV 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from cache.errors import SettingsError
from stages.training.losses.settings import Scheduled, value_at
from stages.training.pairs.block import Block, statistics_of
from stages.training.pairs.distance import FARTHEST, check_dist
from stages.training.pairs.loss import RememberingConfig
from stages.training.pairs.metric_learning import library, losses_of, passthrough_distance
from stages.training.pairs.miners import DistanceWeightedConfig, MinerConfig
from stages.training.pairs.rows import PairRule, Sums


@dataclass(frozen=True)
class MarginConfig(RememberingConfig):
    """Margin loss: [margin + d - beta]_+ of positive pairs, [margin + beta - d]_+ of negative ones.

    The sum over both, divided by how many are above 0.

    Args:
        margin_dist: how far on its side of beta a pair is to lie, a distance.
        beta_dist: the distance beta that training begins with.
        beta: ``one`` for all classes, ``by_class`` one for each, or ``fixed``.
        beta_weight: of beta itself in the loss, which keeps it small.
        miner: which pairs.
    """

    kind: Literal["margin"] = "margin"
    margin_dist: Scheduled = 0.2
    beta_dist: float = 1.2
    beta: Literal["one", "by_class", "fixed"] = "one"
    beta_weight: float = 0.0
    miner: MinerConfig = DistanceWeightedConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_dist("margin_dist", self.margin_dist)
        if not 0 < self.beta_dist < FARTHEST:
            raise SettingsError(
                f"beta_dist is a distance of embeddings of unit length, in (0, 2), got {self.beta_dist}"
            )
        if self.beta not in ("one", "by_class", "fixed"):
            raise SettingsError(f"beta is one, by_class or fixed, got {self.beta!r}")
        if not 0 <= self.beta_weight < math.inf:
            raise SettingsError(f"beta_weight is at least 0 and finite, got {self.beta_weight}")
        if self.beta_weight and self.beta == "fixed":
            raise SettingsError("beta_weight keeps a learned beta small; this one is fixed: leave beta_weight out")

    def _rule(self, classes: int) -> PairRule:
        return Margin(self, classes)


class Margin(PairRule):
    """Two parts: the pairs, and the weight of beta."""

    def __init__(self, config: MarginConfig, classes: int) -> None:
        super().__init__(parts=2)
        self.config = config
        self.loss: Any = library().MarginLoss(
            nu=config.beta_weight,
            beta=config.beta_dist,
            learn_beta=config.beta != "fixed",
            num_classes=classes if config.beta == "by_class" else None,
            distance=passthrough_distance(),
        )
        self.at(0.0)

    @property
    def beta(self) -> Tensor:
        """What is learned, (1,) or (C,)."""
        beta: Tensor = self.loss.beta
        return beta

    def at(self, share: float) -> None:
        """See :class:`PairRule`."""
        self.loss.margin = value_at(self.config.margin_dist, share)

    def sums(self, block: Block) -> Sums:
        """See :class:`PairRule`."""
        with torch.no_grad():
            chosen = self.config.miner.pick(block, self.loss.margin)
        positive = block.cosines_of(chosen.row, chosen.positive)
        negative = block.cosines_of(chosen.row, chosen.negative)
        losses, pairs = block.cosines.new_zeros(0), block.cosines.new_zeros(())
        if len(chosen.row):
            parts = losses_of(self.loss, block, chosen)["margin_loss"]
            losses, pairs = parts["losses"], parts["divisor"].to(block.cosines.dtype)
        statistics = statistics_of(torch.cat([positive, negative]), 2 * len(losses) - float(pairs), positive, negative)
        weight, count = self._weight(block, chosen.row, pairs)
        return Sums(torch.stack([losses.sum(), weight]), torch.stack([pairs, count]), statistics)

    def _weight(self, block: Block, row: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """What beta itself adds: once for one beta, for each triplet where there is one a class."""
        if len(self.beta) == 1:
            rows = pairs.new_tensor(float(len(block.cosines)))
            return self.config.beta_weight * self.beta[0] * rows, rows
        return self.config.beta_weight * self.beta[block.labels[row]].sum(), pairs
