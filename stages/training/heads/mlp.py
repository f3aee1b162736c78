"""A head with hidden layers, added to a linear map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from cache.errors import SettingsError
from stages.training.heads.dropout import check_shares, drop
from stages.training.heads.inputs import Inputs, InputsConfig
from stages.training.heads.linear import check_dim, drawn_map
from stages.training.heads.network import HeadNetwork

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": nn.functional.relu, "gelu": nn.functional.gelu}


@dataclass(frozen=True)
class MlpHeadConfig:
    """Hidden layers of the sizes ``hidden``, each a linear map and ``activation``, then a linear map to ``dim``.

    With ``residual`` a linear map from the feature is added, and the last layer starts at zero: the untrained head is
    the linear one. In training, ``dropout`` acts before the first and the last map, and before the linear one.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["mlp"] = "mlp"
    dim: int = 64
    hidden: tuple[int, ...] = (1024,)
    residual: bool = True
    activation: Literal["relu", "gelu"] = "gelu"
    dropout: float = 0.2
    inputs: InputsConfig = InputsConfig()

    def __post_init__(self) -> None:
        check_dim(self.dim)
        check_shares([self.dropout], "dropout")
        if not self.hidden or min(self.hidden) < 1:
            raise SettingsError(f"hidden are the sizes of the hidden layers, one or more, got {list(self.hidden)}")
        if self.activation not in _ACTIVATIONS:
            raise SettingsError(f"activation is one of {', '.join(_ACTIVATIONS)}, got {self.activation!r}")

    def build(self, blocks: Sequence[int], generator: torch.Generator) -> MlpHead:
        """The untrained head for features of ``blocks`` sizes side by side, initialized from ``generator``."""
        return MlpHead(self, Inputs(self.inputs, blocks), generator)


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
        """See :meth:`HeadNetwork.transform`."""
        shares, linear = [self.config.dropout], nn.functional.linear
        prepared = drop(prepared, shares, dropout)
        hidden = prepared
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = _ACTIVATIONS[self.config.activation](linear(hidden, weight, bias))
        corrected = linear(drop(hidden, shares, dropout), self.weights[-1], self.biases[-1])
        return corrected + linear(prepared, self.weight, self.bias) if self.config.residual else corrected
