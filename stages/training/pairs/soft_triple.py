"""SoftTriple: several centres a class, and a softmax that chooses among them (Qian et al., ICCV 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stages.training.pairs.loss import PairLoss
from stages.training.pairs.metric_learning import library
from stages.training.pairs.proxies import ProxyConfig, ProxyLoss, drawn


@dataclass(frozen=True)
class SoftTripleConfig(ProxyConfig):
    """SoftTriple: a cosine softmax over classes, a class's cosine being the soft maximum over its subcenters.

    Args:
        subcenters: how many a class has.
        subcenter_scale: of the softmax over a class's subcenters; one over gamma in the paper.
        scale: the factor on the cosines of the softmax over classes; lambda in the paper.
        margin_cos: requested off the cosine of the own class.
    """

    kind: Literal["soft_triple"] = "soft_triple"
    subcenters: int = 3
    subcenter_scale: float = 10.0
    scale: float = 10.0
    proxy_rate: float = field(default=3.0, kw_only=True)
    margin_cos: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.subcenters < 1:
            raise ValueError(f"subcenters is a number of prototypes a class, at least 1, got {self.subcenters}")
        for name in ("subcenter_scale", "scale"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise ValueError(f"{name} is a factor on the cosines, above 0 and finite, got {value}")
        if not 0 <= self.margin_cos <= 1:
            raise ValueError(f"margin_cos is a difference of cosines in [0, 1], got {self.margin_cos}")

    def build(self, dim: int, class_sizes: Tensor, generator: torch.Generator) -> PairLoss:
        """See :class:`PairLossConfig`."""
        classes, each = len(class_sizes), self.subcenters
        loss: Any = library().SoftTripleLoss(
            classes,
            dim,
            each,
            la=self.scale,
            gamma=1 / self.subcenter_scale,
            margin=self.margin_cos,
            weight_init_func=drawn(nn.init.kaiming_uniform_, generator, a=math.sqrt(5)),
        )

        def cosines(embeddings: Tensor) -> Tensor:
            """Of each class (B, C): the library's formula for embeddings of any size, nested ones too."""
            of_each = loss.distance(embeddings, loss.fc[: embeddings.shape[1]].T).view(-1, classes, each)
            soft_maximum: Tensor = (torch.softmax(of_each * loss.gamma, 2) * of_each).sum(2)
            return soft_maximum

        loss.get_logits = cosines
        return ProxyLoss(loss, loss.fc, lambda fc: fc.view(dim, classes, each).permute(2, 1, 0), self.proxy_rate)
