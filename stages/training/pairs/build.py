"""Losses on proxies, a vector or more of each class that is trained with the head; and what computes which kind."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from stages.training.losses.kernel import MarginSoftmax
from stages.training.losses.kinds import NormFaceConfig
from stages.training.pairs import kinds
from stages.training.pairs.cosine_losses import MultiSimilarity, Ranks, SupCon
from stages.training.pairs.distance_losses import Contrastive, Margin, RangeLoss, Triplet, library
from stages.training.pairs.loss import CrossBatchMemory, PairLoss, RowWise
from stages.training.pairs.rows import PairRule

_RULES: dict[type[kinds.PairLossConfig], Callable[..., PairRule]] = {
    kinds.ContrastiveConfig: Contrastive,
    kinds.MultiSimilarityConfig: MultiSimilarity,
    kinds.RecallConfig: Ranks,
    kinds.SmoothApConfig: Ranks,
    kinds.SupConConfig: SupCon,
    kinds.TripletConfig: Triplet,
}


def build(config: kinds.PairLossConfig, dim: int, class_sizes: Tensor, generator: torch.Generator) -> PairLoss:
    """The loss of embeddings (B, ``dim``) for classes of ``class_sizes`` (C,) training rows."""
    match config:
        case kinds.ProxyAnchorConfig():
            return _proxy_anchor(config, dim, len(class_sizes), generator)
        case kinds.ProxyNcaConfig():
            # of vectors of unit length d^2 = 2 - 2 c: a softmax of cosines of twice the scale
            softmax = NormFaceConfig(scale=2 * config.scale).build(dim, class_sizes, generator)
            return ProxyLoss(softmax, softmax.weight, lambda weight: weight[None], config.proxy_rate)
        case kinds.RangeConfig():
            return RangeLoss(config)
        case kinds.SoftTripleConfig():
            return _soft_triple(config, dim, len(class_sizes), generator)
        case kinds.MarginConfig():
            rule: PairRule = Margin(config, len(class_sizes))
        case _:
            make = next((make for kind, make in _RULES.items() if isinstance(config, kind)), None)
            if make is None:
                raise NotImplementedError(f"{type(config).__name__} builds no loss: a loss is a subclass that does")
            rule = make(config)
    memory = config.memory if isinstance(config, kinds.RememberingConfig) else 0
    return RowWise(rule, CrossBatchMemory(memory, dim), generator)


class ProxyLoss(PairLoss):
    """``module``, a loss of embeddings and labels whose parameter ``proxies`` moves ``rate`` times as fast as the rest.

    ``view`` makes of them, without copying, vectors (k, C, E).
    """

    def __init__(self, module: Any, proxies: nn.Parameter, view: Callable[[Tensor], Tensor], rate: float) -> None:
        super().__init__()
        self.module = module
        self.uses_worker_threads = isinstance(module, MarginSoftmax)
        self._proxies, self._view, self._rate = [proxies], view, rate  # in a list: it is the module's parameter

    def forward(self, embeddings: Tensor, labels: Tensor, rows: Tensor | None = None) -> Tensor:
        del rows
        # A zero vector has no direction: the library divides it by 1e-12, and its gradient with it.
        empty = (embeddings == 0).all(1, keepdim=True)
        value: Tensor = self.module(torch.where(empty, embeddings.detach(), embeddings), labels)
        return value

    @property
    def prototypes(self) -> Tensor:
        return self._view(self._proxies[0])

    @property
    def fast(self) -> tuple[list[nn.Parameter], float]:
        return self._proxies, self._rate


def _drawn(fill: Callable[..., Tensor], generator: torch.Generator, **settings: Any) -> Callable[[Tensor], Tensor]:
    """A function that fills a tensor from ``generator``, where a library would take the global one."""
    return lambda weight: fill(weight, generator=generator, **settings)


def _proxy_anchor(config: kinds.ProxyAnchorConfig, dim: int, classes: int, generator: torch.Generator) -> PairLoss:
    start = _drawn(nn.init.kaiming_normal_, generator, mode="fan_out")
    loss: Any = library().ProxyAnchorLoss(classes, dim, config.margin_cos, config.scale, weight_init_func=start)
    # for nested sizes too
    loss.get_logits = lambda embeddings: loss.distance(embeddings, loss.proxies[:, : embeddings.shape[1]])
    return ProxyLoss(loss, loss.proxies, lambda proxies: proxies[None], config.proxy_rate)


def _soft_triple(config: kinds.SoftTripleConfig, dim: int, classes: int, generator: torch.Generator) -> PairLoss:
    each = config.subcenters
    start = _drawn(nn.init.kaiming_uniform_, generator, a=math.sqrt(5))
    loss: Any = library().SoftTripleLoss(
        classes,
        dim,
        each,
        la=config.scale,
        gamma=1 / config.subcenter_scale,
        margin=config.margin_cos,
        weight_init_func=start,
    )

    def cosines(embeddings: Tensor) -> Tensor:
        """Of each class (B, C): the library's formula for embeddings of any size, nested ones too."""
        of_each = loss.distance(embeddings, loss.fc[: embeddings.shape[1]].T).view(-1, classes, each)
        soft_maximum: Tensor = (torch.softmax(of_each * loss.gamma, 2) * of_each).sum(2)
        return soft_maximum

    loss.get_logits = cosines
    return ProxyLoss(loss, loss.fc, lambda fc: fc.view(dim, classes, each).permute(2, 1, 0), config.proxy_rate)
