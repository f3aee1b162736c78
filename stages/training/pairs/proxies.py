"""Losses on proxies: a vector or more of each class, trained with the head, which rows are compared with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from cache.errors import SettingsError
from stages.training.losses.kernel import MarginSoftmax
from stages.training.losses.kinds import NormFaceConfig
from stages.training.pairs.loss import PairLoss, PairLossConfig
from stages.training.pairs.metric_learning import library


@dataclass(frozen=True)
class ProxyConfig(PairLossConfig):
    """The settings of a loss on proxies.

    Args:
        proxy_rate: how many times as fast as the head its proxies move: a factor on the learning rate.
    """

    of_pairs: ClassVar[bool] = False

    proxy_rate: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 < self.proxy_rate < math.inf:
            raise SettingsError(
                f"proxy_rate is a factor on the learning rate, above 0 and finite, got {self.proxy_rate}"
            )


class _ProxyLoss(PairLoss):
    """A loss whose proxies are parameters: one of PyTorch Metric Learning's, or a module of our own.

    ``module`` is called with embeddings (B, E) and labels (B,); ``proxies`` is its parameter, of which ``view`` makes,
    without copying, vectors (k, C, E); ``rate`` is the factor on their learning rate.
    """

    def __init__(self, module: Any, proxies: nn.Parameter, view: Callable[[Tensor], Tensor], rate: float) -> None:
        super().__init__()
        self.module = module
        self.uses_worker_threads = isinstance(module, MarginSoftmax)
        self._proxies, self._view, self._rate = [proxies], view, rate  # in a list: it is the module's parameter

    def forward(self, embeddings: Tensor, labels: Tensor, rows: Tensor | None = None) -> Tensor:
        del rows
        value: Tensor = self.module(embeddings, labels)
        return value

    @property
    def prototypes(self) -> Tensor:
        return self._view(self._proxies[0])

    @property
    def fast(self) -> tuple[list[nn.Parameter], float]:
        return self._proxies, self._rate


@dataclass(frozen=True)
class ProxyAnchorConfig(ProxyConfig):
    """Proxy-Anchor (Kim et al., CVPR 2020): a proxy of each class is compared with all rows of the batch.

    With cosines c of a proxy with the rows of its class (+) and of others (-): the mean over the classes in the batch
    of log(1 + sum_+ exp(-scale (c - margin))) plus the mean over all classes of log(1 + sum_- exp(scale (c + margin))).

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
            raise SettingsError(f"margin_cos is a difference of cosines in [0, 1], got {self.margin_cos}")
        if not 0 < self.scale < math.inf:
            raise SettingsError(f"scale is a factor on the cosines, above 0 and finite, got {self.scale}")

    def build(self, dim: int, class_sizes: Tensor, generator: torch.Generator) -> PairLoss:
        """See :class:`PairLossConfig`."""
        start = _drawn(nn.init.kaiming_normal_, generator, mode="fan_out")
        loss: Any = library().ProxyAnchorLoss(
            len(class_sizes), dim, self.margin_cos, self.scale, weight_init_func=start
        )
        loss.get_logits = lambda embeddings: loss.distance(
            embeddings, loss.proxies[:, : embeddings.shape[1]]
        )  # for nested sizes too
        return _ProxyLoss(loss, loss.proxies, lambda proxies: proxies[None], self.proxy_rate)


@dataclass(frozen=True)
class ProxyNcaConfig(ProxyConfig):
    """ProxyNCA++ (Teh et al., ECCV 2020): -log of the softmax over all proxies of -scale * d^2, d the distance.

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
            raise SettingsError(f"scale is a factor on the squared distances, above 0 and finite, got {self.scale}")

    def build(self, dim: int, class_sizes: Tensor, generator: torch.Generator) -> PairLoss:
        """See :class:`PairLossConfig`."""
        softmax: MarginSoftmax = NormFaceConfig(scale=2 * self.scale).build(dim, class_sizes, generator)
        return _ProxyLoss(softmax, softmax.weight, lambda weight: weight[None], self.proxy_rate)


@dataclass(frozen=True)
class SoftTripleConfig(ProxyConfig):
    """SoftTriple (Qian et al., ICCV 2019): a cosine softmax over classes, of several subcenters each.

    A class's cosine is the soft maximum over its subcenters.

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
            raise SettingsError(f"subcenters is a number of prototypes a class, at least 1, got {self.subcenters}")
        for name in ("subcenter_scale", "scale"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise SettingsError(f"{name} is a factor on the cosines, above 0 and finite, got {value}")
        if not 0 <= self.margin_cos <= 1:
            raise SettingsError(f"margin_cos is a difference of cosines in [0, 1], got {self.margin_cos}")

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
            weight_init_func=_drawn(nn.init.kaiming_uniform_, generator, a=math.sqrt(5)),
        )

        def cosines(embeddings: Tensor) -> Tensor:
            """Of each class (B, C): the library's formula for embeddings of any size, nested ones too."""
            of_each = loss.distance(embeddings, loss.fc[: embeddings.shape[1]].T).view(-1, classes, each)
            soft_maximum: Tensor = (torch.softmax(of_each * loss.gamma, 2) * of_each).sum(2)
            return soft_maximum

        loss.get_logits = cosines
        return _ProxyLoss(loss, loss.fc, lambda fc: fc.view(dim, classes, each).permute(2, 1, 0), self.proxy_rate)


def _drawn(fill: Callable[..., Tensor], generator: torch.Generator, **settings: Any) -> Callable[[Tensor], Tensor]:
    """A function that fills a tensor from ``generator``, where a library would take the global one."""
    return lambda weight: fill(weight, generator=generator, **settings)
