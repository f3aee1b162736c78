"""ProxyNCA++: a softmax over the distances to all proxies, the own one among them (Teh et al., ECCV 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from stages.training.losses.fixed import NormFaceConfig
from stages.training.losses.kernel import MarginSoftmax
from stages.training.pairs.loss import PairLoss
from stages.training.pairs.proxies import ProxyConfig, ProxyLoss


@dataclass(frozen=True)
class ProxyNcaConfig(ProxyConfig):
    """ProxyNCA++: -log of the softmax over all proxies of -scale * d^2, d the distance.

    Of vectors of unit length d^2 = 2 - 2 c, so this is a softmax of cosines of twice the scale, and the margin losses'
    kernel computes it.

    Args:
        scale: the factor on the squared distances, one over the temperature.
    """

    kind: Literal["proxynca++"] = "proxynca++"
    scale: float = 9.0
    proxy_rate: float = field(default=10.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale is a factor on the squared distances, above 0 and finite, got {self.scale}")

    def build(self, dim: int, class_sizes: Tensor, generator: torch.Generator) -> PairLoss:
        """See :class:`PairLossConfig`."""
        softmax: MarginSoftmax = NormFaceConfig(scale=2 * self.scale).build(dim, class_sizes, generator)
        return ProxyLoss(softmax, softmax.weight, lambda weight: weight[None], self.proxy_rate)
