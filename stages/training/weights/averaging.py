"""Averages of weights: their moving average, or the mean over epochs or over heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Weights: TypeAlias = dict[str, Tensor]


class WeightAverage:
    """The average of a network's weights that is validated and kept: ``ema`` and ``epochs`` as in the settings."""

    def __init__(self, network: nn.Module, ema: float, epochs: int) -> None:
        self._network, self._decay, self._epochs = network, ema, epochs
        self._parameters: list[Tensor] = list(network.parameters())
        self._average = [parameter.detach().clone() for parameter in self._parameters] if ema else []
        self._steps = 0
        self._last: list[Weights] = []

    def after_step(self) -> None:
        """Follow the weights after a step."""
        if self._decay:
            self._steps += 1
            decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
            with torch.no_grad():
                torch._foreach_lerp_(self._average, self._parameters, 1 - decay)

    def after_epoch(self) -> Weights:
        """The weights to keep after an epoch."""
        weights = {name: tensor.clone() for name, tensor in self._network.state_dict().items()}
        names = [name for name, _ in self._network.named_parameters()]
        weights |= {name: tensor.clone() for name, tensor in zip(names, self._average, strict=bool(self._average))}
        if self._epochs == 1:
            return weights
        self._last = [*self._last, weights][-self._epochs :]
        return mean_of(self._last, names)

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` takes."""
        return {"average": self._average, "steps": self._steps, "last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken."""
        self._average, self._steps, self._last = state["average"], state["steps"], state["last"]


def mean_of(states: Sequence[Weights], parameters: Sequence[str]) -> Weights:
    """The mean of ``parameters`` over ``states`` of one network; the rest, statistics, is that of the last."""
    mean = {name: torch.stack([weights[name] for weights in states]).mean(0) for name in parameters}
    return states[-1] | mean


def between(start: Weights, trained: Weights, share: float, parameters: Sequence[str]) -> Weights:
    """(1 - ``share``) ``start`` + ``share`` ``trained`` of ``parameters``; exactly one of them at 0 and at 1."""
    if share in (0, 1):
        return start if share == 0 else trained
    return trained | {name: torch.lerp(start[name], trained[name], share) for name in parameters}
