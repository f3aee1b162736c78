"""Losses on proxies: a vector or more of each class, trained with the head, which rows are compared with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stages.training.losses.kernel import MarginSoftmax
from stages.training.pairs.loss import PairLoss, PairLossConfig


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
            raise ValueError(f"proxy_rate is a factor on the learning rate, above 0 and finite, got {self.proxy_rate}")


class ProxyLoss(PairLoss):
    """A loss whose proxies are parameters: one of PyTorch Metric Learning's, or a module of our own.

    Args:
        module: called with embeddings (B, E) and labels (B,).
        proxies: its parameter.
        view: makes of the parameter, without copying, vectors (k, C, E).
        rate: the factor on the learning rate of the proxies.
    """

    def __init__(self, module: Any, proxies: nn.Parameter, view: Callable[[Tensor], Tensor], rate: float) -> None:
        super().__init__()
        self.module = module
        self.uses_worker_threads = isinstance(module, MarginSoftmax)
        self._proxies, self._view, self._rate = [proxies], view, rate  # in a list: it is the module's parameter

    def forward(self, embeddings: Tensor, labels: Tensor, rows: Tensor | None = None) -> Tensor:
        """See :class:`PairLoss`."""
        del rows
        value: Tensor = self.module(embeddings, labels)
        return value

    @property
    def prototypes(self) -> Tensor:
        """See :class:`PairLoss`."""
        return self._view(self._proxies[0])

    @property
    def fast(self) -> tuple[list[nn.Parameter], float]:
        """See :class:`PairLoss`."""
        return self._proxies, self._rate


def drawn(fill: Callable[..., Tensor], generator: torch.Generator, **settings: Any) -> Callable[[Tensor], None]:
    """A function that fills a tensor from ``generator``, where a library would take the global one."""

    def initialise(weight: Tensor) -> None:
        fill(weight, generator=generator, **settings)

    return initialise
