"""Build a loss on pairs or proxies: what computes which kind."""

from __future__ import annotations

from collections.abc import Callable

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

_RULES: dict[type[kinds.PairLossConfig], Callable[..., PairRule]] = {
    kinds.ContrastiveConfig: Contrastive,
    kinds.MultiSimilarityConfig: MultiSimilarity,
    kinds.RecallConfig: Recall,
    kinds.SmoothApConfig: SmoothAp,
    kinds.SupConConfig: SupCon,
    kinds.TripletConfig: Triplet,
}


def build(config: kinds.PairLossConfig, dim: int, class_sizes: Tensor, generator: torch.Generator) -> PairLoss:
    """The loss of embeddings (B, ``dim``) for classes of ``class_sizes`` (C,) training rows."""
    match config:
        case kinds.ProxyAnchorConfig():
            return proxy_anchor(config, dim, len(class_sizes), generator)
        case kinds.ProxyNcaConfig():
            # of vectors of unit length d^2 = 2 - 2 c: a softmax of cosines of twice the scale
            softmax = NormFaceConfig(scale=2 * config.scale).build(dim, class_sizes, generator)
            return ProxyLoss(softmax, softmax.weight, lambda weight: weight[None], config.proxy_rate)
        case kinds.RangeConfig():
            return RangeLoss(config)
        case kinds.SoftTripleConfig():
            return soft_triple(config, dim, len(class_sizes), generator)
        case kinds.MarginConfig():
            rule: PairRule = Margin(config, len(class_sizes))
        case _:
            make = next((make for kind, make in _RULES.items() if isinstance(config, kind)), None)
            if make is None:
                raise NotImplementedError(f"{type(config).__name__} builds no loss: a loss is a subclass that does")
            rule = make(config)
    memory = config.memory if isinstance(config, kinds.RememberingConfig) else 0
    return RowWise(rule, CrossBatchMemory(memory, dim), generator)
