"""The networks of heads: the steps before the map, dropout, the map of each kind, then unit length; as plain data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import asdict, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cache.fingerprint import JSON
from stages.training.heads.kinds import InputsConfig, MlpHeadConfig
from stages.training.losses.angle import normalize

if TYPE_CHECKING:
    from stages.training.recipe import HeadConfig

_BLOCK = 8192  # rows at a time, when statistics are taken


class Blocks(Sized, Iterable[Tensor], Protocol):
    """N rows that are not in memory together: each iteration gives blocks (n, D) in order."""


Rows: TypeAlias = Tensor | Blocks


class Inputs(nn.Module):
    """See :class:`InputsConfig`. ``blocks`` are the sizes of the features that stand side by side; their sum is D."""

    root: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(self, config: InputsConfig, blocks: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.blocks = tuple(blocks)
        # A closed form may choose another root than the settings have, so it is saved with the statistics.
        self.register_buffer("root", torch.tensor(config.root, dtype=torch.float64))
        self.exponent = config.root  # the same as a plain number, for export and for cards
        self.register_buffer("mean", torch.zeros(sum(blocks)))
        self.register_buffer("spread", torch.ones(()))

    @property
    def dim(self) -> int:
        return sum(self.blocks)

    def observe(self, features: Rows) -> None:
        """Compute the statistics that the steps need from the training features (N, D), of any float dtype."""
        if not self.config.center and self.config.rescale != "spread":
            return
        total = torch.stack([self._before_mean(block).double().sum(0) for block in by_blocks(features)]).sum(0)
        mean = total / len(features) if self.config.center else torch.zeros_like(total)
        self.mean = mean.float()
        if self.config.rescale == "spread":
            squares = [(self._before_mean(block).double() - mean).square().sum() for block in by_blocks(features)]
            square = torch.stack(squares).sum() / (len(features) * self.dim)
            self.spread = square.sqrt().float() if square > 0 else torch.ones(())  # all rows alike

    def forward(self, features: Tensor) -> Tensor:
        """``features`` (B, D), of any float dtype, after the steps: (B, D) float32."""
        features = self._before_mean(features)
        if self.config.center:
            features = features - self.mean
        if self.config.rescale == "spread":
            return features / self.spread
        return normalize(features) if self.config.rescale == "unit" else features

    def _load_from_state_dict(self, *state: Any) -> None:
        super()._load_from_state_dict(*state)
        self.exponent = float(self.root)

    def _before_mean(self, features: Tensor) -> Tensor:
        features = features.float()
        if self.exponent != 1:
            features = features.sign() * features.abs().pow(self.exponent)
        if self.config.unit:
            features = torch.cat([normalize(block) for block in torch.split(features, list(self.blocks), dim=1)], 1)
        return features


def by_blocks(features: Rows) -> Iterator[Tensor]:
    """The rows in blocks (n, D), in order."""
    return iter(torch.split(features, _BLOCK)) if isinstance(features, Tensor) else iter(features)


def in_blocks(function: Callable[[Tensor], Tensor], features: Rows) -> Tensor:
    """``function`` of all rows of ``features`` (N, D), a block at a time, without gradients."""
    with torch.inference_mode():
        return torch.cat([function(block) for block in by_blocks(features)])


_STEPS = 1 << 16  # a share is rounded to a multiple of 1 / _STEPS
_LEAST_VARIANCE = 1e-6  # as published
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": nn.functional.relu, "gelu": nn.functional.gelu}


def drop(features: Tensor, shares: Sequence[float], generator: torch.Generator | None) -> Tensor:
    """The mean over ``shares`` of ``features`` (B, D) float32 with that share set to zero and the rest scaled up.

    A linear map of the mean is the mean of the map over several dropouts. A share is rounded to a multiple of 2**-16.
    """
    if generator is None or not any(shares):
        return features
    mean, mask = torch.zeros_like(features), torch.empty_like(features)
    for share in shares:
        # 64 random bits are four signed 16-bit integers: one is below dropped - 2**15 with probability dropped / 2**16
        dropped = round(share * _STEPS)
        words = torch.empty(-(-features.numel() // 4), dtype=torch.int64, device=features.device)
        words.random_(-(2**63), None, generator=generator)
        draws = words.view(torch.int16)[: features.numel()].view(features.shape)
        torch.ge(draws, dropped - _STEPS // 2, out=mask)  # as floats: a bool mask takes four times as long
        mean.add_(mask, alpha=_STEPS / (_STEPS - dropped) / len(shares))
    return mean.mul_(features)


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


class Gate(NamedTuple):
    """A classifier of d domains: a linear map (d - 1, D) with bias after ``inputs``, and each domain's mean there."""

    inputs: Inputs
    weight: Tensor
    bias: Tensor
    means: Tensor

    def domains(self, features: Tensor) -> Tensor:
        """The domain (B,) of each of ``features`` (B, D), in [0, d): the one whose mean is nearest."""
        predicted = nn.functional.linear(self.inputs(features), self.weight, self.bias)
        return torch.cdist(predicted, self.means).argmin(1)


class Experts(HeadNetwork):
    """The embedding (E,) of a feature is its domain's corner of a simplex (d - 1) beside its expert's embedding.

    Both parts are of unit length before the whole is. With c the cosine of the expert, two images of one domain have
    the similarity (1 + c) / 2, which ranks as the expert does; two of different domains at most (1 - 1 / (d - 1)) / 2.
    """

    def __init__(self, gate: Gate, experts: Sequence[HeadNetwork]) -> None:
        super().__init__(gate.inputs)
        self.weight, self.bias, self.means = (nn.Parameter(tensor) for tensor in gate[1:])
        self.experts = nn.ModuleList(experts)
        self.corners = simplex(len(experts))

    @property
    def heads(self) -> list[HeadNetwork]:
        """The experts, in the order of their domains."""
        return [expert for expert in self.experts if isinstance(expert, HeadNetwork)]

    def project(self, features: Tensor, dropout: torch.Generator | None = None) -> Tensor:  # noqa: ARG002
        domains = Gate(self.inputs, self.weight, self.bias, self.means).domains(features)
        inside = torch.cat([expert(features[domains == number]) for number, expert in enumerate(self.heads)])
        places = torch.argsort(torch.argsort(domains, stable=True))  # `inside` has the rows of a domain together
        return torch.cat([self.corners[domains], inside[places]], 1)


def expert_dim(dim: int, domains: int) -> int:
    """The size of an expert's embedding where the whole has ``dim``."""
    return dim - (domains - 1)


def simplex(corners: int) -> Tensor:
    """The ``corners`` (d, d - 1) of a regular simplex around 0, each of unit length (Helmert's contrasts)."""
    contrasts = torch.zeros(corners - 1, corners, dtype=torch.float64)
    for row, contrast in enumerate(contrasts):
        contrast[: row + 1], contrast[row + 1] = 1, -(row + 1)
    unit = nn.functional.normalize(contrasts, dim=1)
    return unit.T.float() * math.sqrt(corners / (corners - 1))


def structure_of(network: HeadNetwork) -> dict[str, JSON]:
    """What ``network`` has beside its settings and its tensors."""
    # The steps are those of the closed form that a head started at.
    structure: dict[str, JSON] = {"inputs": asdict(network.inputs.config), "blocks": list(network.inputs.blocks)}
    if isinstance(network, Experts):
        structure["experts"] = [structure_of(expert) for expert in network.heads]
    return structure


def weights_of(network: HeadNetwork) -> dict[str, npt.NDArray[np.generic]]:
    """The tensors of ``network`` by name."""
    return {name: tensor.contiguous().numpy() for name, tensor in network.state_dict().items()}


def build_network(
    config: HeadConfig, structure: Mapping[str, Any], weights: Mapping[str, npt.NDArray[np.generic]] | None
) -> HeadNetwork:
    """The network of ``config`` that :func:`structure_of` and :func:`weights_of` described."""
    inputs = Inputs(InputsConfig(**structure["inputs"]), structure["blocks"])
    network: HeadNetwork
    if experts := structure.get("experts"):
        single = replace(config, dim=expert_dim(config.dim, len(experts)))
        shapes = (len(experts) - 1, inputs.dim), (len(experts) - 1,), (len(experts), len(experts) - 1)
        gate = Gate(inputs, *(torch.zeros(shape) for shape in shapes))
        network = Experts(gate, [build_network(single, each, None) for each in experts])
    else:
        network = config.build(structure["blocks"], torch.Generator())
        network.inputs = inputs
    if weights is not None:
        network.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    return network
