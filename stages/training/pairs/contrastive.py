"""Contrastive loss: positives nearer than one distance, negatives farther than another (Hadsell et al., CVPR 2006)."""

from __future__ import annotations

from typing import Any

import torch

from stages.training.losses.settings import value_at
from stages.training.pairs.block import Block, Pairs, statistics_of, statistics_of_all
from stages.training.pairs.distance import distance_of
from stages.training.pairs.kinds import AllConfig, ContrastiveConfig
from stages.training.pairs.metric_learning import library
from stages.training.pairs.miners import pick
from stages.training.pairs.rows import PairRule, Sums

_ROUNDING = 1e-5  # of a cosine: what is no nearer than this beyond the margin is looked at too


class Contrastive(PairRule):
    """Two parts: positive pairs and negative pairs."""

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__(parts=2)
        self.config = config
        self._loss: Any = library().ContrastiveLoss()
        self.at(0.0)

    def at(self, share: float) -> None:
        """See :class:`PairRule`."""
        self._loss.pos_margin = value_at(self.config.positive_margin_dist, share)
        self._loss.neg_margin = value_at(self.config.margin_dist, share)

    def sums(self, block: Block) -> Sums:
        """See :class:`PairRule`."""
        with torch.no_grad():
            positive, negative = self._chosen(block)
        cosines = block.differentiable(*positive), block.differentiable(*negative)
        losses = [
            self._loss.get_per_pair_loss(distance_of(pairs), kind)
            for pairs, kind in zip(cosines, ("pos", "neg"), strict=True)
        ]
        counts = torch.stack([(loss > 0).sum() for loss in losses]).to(block.cosines.dtype)
        totals = torch.stack([loss.sum() for loss in losses])
        if not isinstance(self.config.miner, AllConfig):
            chosen = torch.cat(cosines)
            return Sums(totals, counts, statistics_of(chosen, len(chosen) - counts.sum(), *cosines))
        pairs = float(block.cosines.numel() - len(block.self_pairs.row))
        return Sums(totals, counts, statistics_of_all(block, pairs, pairs - float(counts.sum())))

    def _chosen(self, block: Block) -> tuple[Pairs, Pairs]:
        """Pairs by the miner; of all pairs, those that can have a loss."""
        if not isinstance(self.config.miner, AllConfig):
            row, positive, negative = pick(self.config.miner, block, self._loss.neg_margin)
            return Pairs(row, positive), Pairs(row, negative)
        near = block.cosines > 1 - self._loss.neg_margin**2 / 2 - _ROUNDING  # d^2 = 2 - 2 c
        row, column = near.nonzero(as_tuple=True)
        other = block.labels[row] != block.against_labels[column]
        return block.positives, Pairs(row[other], column[other])
