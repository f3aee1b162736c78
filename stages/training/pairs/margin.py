"""Margin loss: a learned distance separates positives from negatives (Wu et al., Sampling matters, ICCV 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stages.training.losses.settings import value_at
from stages.training.pairs.block import Block, statistics_of
from stages.training.pairs.kinds import MarginConfig
from stages.training.pairs.metric_learning import library, losses_of, passthrough_distance
from stages.training.pairs.miners import pick
from stages.training.pairs.rows import PairRule, Sums


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
            chosen = pick(self.config.miner, block, self.loss.margin)
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
