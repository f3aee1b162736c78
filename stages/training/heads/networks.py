"""The networks of heads: the steps before the map, dropout, the map of each kind, then unit length."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from stages.training.heads.inputs import Inputs, Rows, by_blocks
from stages.training.heads.kinds import MlpHeadConfig
from stages.training.losses.angle import normalize

_STEPS = 1 << 16  # a share is rounded to a multiple of 1 / _STEPS
_LEAST_VARIANCE = 1e-6  # as published
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": nn.functional.relu, "gelu": nn.functional.gelu}


def drop(features: Tensor, shares: Sequence[float], generator: torch.Generator | None) -> Tensor:
    """The mean over ``shares`` of ``features`` (B, D) float32 with that share set to zero and the rest scaled up."""
    if generator is None or not any(shares):
        return features
    factors = [_factors(features, share, generator) for share in shares]
    if len(factors) == 1:
        mask, scale = factors[0]
        return (features * mask).mul_(scale)
    mean = torch.zeros_like(features)
    for mask, scale in factors:
        mean.add_(mask, alpha=scale / len(factors))
    return mean.mul_(features)


def _factors(features: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, float]:
    """A mask (B, D) of ones, and zeros for dropped elements, and the factor of the others."""
    # 64 random bits are four signed 16-bit integers: one is below dropped - 2**15 with probability dropped / 2**16
    dropped = round(share * _STEPS)
    words = torch.empty(-(-features.numel() // 4), dtype=torch.int64, device=features.device)
    words.random_(-(2**63), None, generator=generator)
    draws = words.view(torch.int16)[: features.numel()].view(features.shape)
    mask = torch.empty_like(features)
    torch.ge(draws, dropped - _STEPS // 2, out=mask)  # as floats: a bool mask takes four times as long
    return mask, _STEPS / (_STEPS - dropped)


class HeadNetwork(nn.Module):
    """``inputs``, then :meth:`transform`, which a kind of head implements; with a generator for dropout in training."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.inputs = inputs

    @property
    def dim(self) -> int:  # where the settings do not give it
        return self.inputs.dim

    def observe(self, features: Rows) -> None:
        """Compute the statistics of ``inputs`` from the training features (N, D)."""
        self.inputs.observe(features)

    def transform(self, prepared: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        """Embeddings (B, E) before unit length of the output of ``inputs``, ``prepared`` (B, D) float32."""
        raise NotImplementedError(f"{type(self).__name__} has no map: a kind of head is a subclass with one")

    def project(self, features: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        """Embeddings (B, E) before unit length of ``features`` (B, D); with a generator, with dropout."""
        return self.transform(self.inputs(features), dropout)

    def forward(self, features: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        """:meth:`project` brought to unit length."""
        return normalize(self.project(features, dropout))


class FittedNetwork(HeadNetwork):
    """A head in closed form: its buffers are what its class annotates, of the sizes of what was fitted or loaded."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        for name in type(self).__annotations__:
            self.register_buffer(name, torch.empty(0))

    def fill(self, fitted: Mapping[str, Tensor]) -> None:
        """Take what was ``fitted``, contiguous as it will be loaded: products of slices have other last bits."""
        for name, tensor in fitted.items():
            setattr(self, name, tensor.contiguous())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in type(self).__annotations__:
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name]))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class LinearHead(HeadNetwork):
    """``weight`` (E, D) and ``bias`` (E,), float32, applied after ``inputs``."""

    def __init__(
        self, inputs: Inputs, weight: Tensor, bias: Tensor, dropout: float = 0.0, dropouts: Sequence[float] = ()
    ) -> None:
        super().__init__(inputs)
        self.dropouts = tuple(dropouts) or (dropout,)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def transform(self, prepared: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        return nn.functional.linear(drop(prepared, self.dropouts, dropout), self.weight, self.bias)


def drawn_map(dim: int, inputs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A weight (``dim``, ``inputs``) and a bias (``dim``,), uniform within 1 / sqrt(``inputs``) like ``nn.Linear``."""
    bound = 1 / math.sqrt(inputs)
    weight = torch.empty(dim, inputs).uniform_(-bound, bound, generator=generator)
    return weight, torch.empty(dim).uniform_(-bound, bound, generator=generator)


class BatchNormHead(LinearHead):
    """A linear head of what ``running_mean`` and ``running_variance`` (D,), float32, normalize."""

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, inputs: Inputs, weight: Tensor, bias: Tensor, dropout: float, momentum: float) -> None:
        super().__init__(inputs, weight, bias, dropout)
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(inputs.dim))
        self.register_buffer("running_variance", torch.ones(inputs.dim))

    def observe(self, features: Rows) -> None:
        super().observe(features)
        mean = torch.stack([self.inputs(block).double().sum(0) for block in by_blocks(features)]).sum(0) / len(features)
        squares = [(self.inputs(block).double() - mean).square().sum(0) for block in by_blocks(features)]
        self.running_mean.copy_(mean)
        self.running_variance.copy_(torch.stack(squares).sum(0) / len(features))

    def transform(self, prepared: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        training = dropout is not None and len(prepared) > 1  # one row has no variance
        normal = nn.functional.batch_norm(
            prepared, self.running_mean, self.running_variance, None, None, training, self.momentum, _LEAST_VARIANCE
        )
        return super().transform(normal, dropout)


class MlpHead(HeadNetwork):
    """``weights`` and ``biases`` of the layers in order; ``weight`` and ``bias`` of the linear map."""

    def __init__(self, config: MlpHeadConfig, inputs: Inputs, generator: torch.Generator) -> None:
        super().__init__(inputs)
        self.config = config
        sizes = [inputs.dim, *config.hidden, config.dim]
        maps = [drawn_map(out, into, generator) for into, out in pairwise(sizes)]
        if config.residual:
            weight, bias = drawn_map(config.dim, inputs.dim, generator)
            self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
            maps[-1] = torch.zeros_like(maps[-1][0]), torch.zeros_like(maps[-1][1])
        self.weights = nn.ParameterList([nn.Parameter(weight) for weight, _ in maps])
        self.biases = nn.ParameterList([nn.Parameter(bias) for _, bias in maps])

    def transform(self, prepared: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        shares, linear = [self.config.dropout], nn.functional.linear
        prepared = drop(prepared, shares, dropout)
        hidden = prepared
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = _ACTIVATIONS[self.config.activation](linear(hidden, weight, bias))
        corrected = linear(drop(hidden, shares, dropout), self.weights[-1], self.biases[-1])
        return corrected + linear(prepared, self.weight, self.bias) if self.config.residual else corrected
