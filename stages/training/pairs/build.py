"""Build a loss on pairs or proxies: what computes which kind."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.training.losses.kinds import NormFaceConfig
from stages.training.pairs import kinds
from stages.training.pairs.cosine_losses import MultiSimilarity, Recall, SmoothAp, SupCon
from stages.training.pairs.distance_losses import Contrastive, Margin, Triplet
from stages.training.pairs.loss import CrossBatchMemory, PairLoss, RowWise
from stages.training.pairs.proxies import ProxyLoss, proxy_anchor, soft_triple
from stages.training.pairs.range_loss import RangeLoss
from stages.training.pairs.rows import PairRule


def build(config: kinds.PairLossConfig, dim: int, class_sizes: Tensor, generator: torch.Generator) -> PairLoss:
    """The loss of embeddings (B, ``dim``) for classes of ``class_sizes`` (C,) training rows."""
    match config:
        case kinds.ProxyAnchorConfig():
            return proxy_anchor(config, dim, len(class_sizes), generator)
        case kinds.ProxyNcaConfig():
            softmax = NormFaceConfig(scale=2 * config.scale).build(dim, class_sizes, generator)
            return ProxyLoss(softmax, softmax.weight, lambda weight: weight[None], config.proxy_rate)
        case kinds.RangeConfig():
            return RangeLoss(config)
        case kinds.SoftTripleConfig():
            return soft_triple(config, dim, len(class_sizes), generator)
    memory = config.memory if isinstance(config, kinds.RememberingConfig) else 0
    return RowWise(_rule(config, len(class_sizes)), CrossBatchMemory(memory, dim), generator)


def _rule(config: kinds.PairLossConfig, classes: int) -> PairRule:
    match config:
        case kinds.ContrastiveConfig():
            return Contrastive(config)
        case kinds.MarginConfig():
            return Margin(config, classes)
        case kinds.MultiSimilarityConfig():
            return MultiSimilarity(config)
        case kinds.RecallConfig():
            return Recall(config)
        case kinds.SmoothApConfig():
            return SmoothAp(config.scale)
        case kinds.SupConConfig():
            return SupCon(config.scale)
        case kinds.TripletConfig():
            return Triplet(config)
        case _:
            raise NotImplementedError(f"{type(config).__name__} builds no loss: a loss is a subclass that does")
