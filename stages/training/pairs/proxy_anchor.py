"""Proxy-Anchor: a proxy of each class is compared with all rows of the batch (Kim et al., CVPR 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stages.training.pairs.loss import PairLoss
from stages.training.pairs.metric_learning import library
from stages.training.pairs.proxies import ProxyConfig, ProxyLoss, drawn


@dataclass(frozen=True)
class ProxyAnchorConfig(ProxyConfig):
    """Proxy-Anchor, with cosines c of a class's proxy with the rows of its class (+) and of others (-).

    The mean over the classes in the batch of log(1 + sum_+ exp(-scale (c - margin))) plus the mean over all classes of
    log(1 + sum_- exp(scale (c + margin))).

    Args:
        margin_cos: the margin, a difference of cosines.
        scale: the factor on the cosines; 32 in the paper, for a network that is trained whole.
    """

    kind: Literal["proxy_anchor"] = "proxy_anchor"
    margin_cos: float = 0.1
    scale: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.margin_cos <= 1:
            raise ValueError(f"margin_cos is a difference of cosines in [0, 1], got {self.margin_cos}")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale is a factor on the cosines, above 0 and finite, got {self.scale}")

    def build(self, dim: int, class_sizes: Tensor, generator: torch.Generator) -> PairLoss:
        """See :class:`PairLossConfig`."""
        start = drawn(nn.init.kaiming_normal_, generator, mode="fan_out")
        loss: Any = library().ProxyAnchorLoss(
            len(class_sizes), dim, self.margin_cos, self.scale, weight_init_func=start
        )
        loss.get_logits = lambda embeddings: loss.distance(
            embeddings, loss.proxies[:, : embeddings.shape[1]]
        )  # for nested sizes too
        return ProxyLoss(loss, loss.proxies, lambda proxies: proxies[None], self.proxy_rate)
