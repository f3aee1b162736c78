"""A head with hidden layers, added to a linear map."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from stages.training.heads.dropout import drop
from stages.training.heads.inputs import Inputs
from stages.training.heads.kinds import MlpHeadConfig
from stages.training.heads.linear import drawn_map
from stages.training.heads.network import HeadNetwork

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": nn.functional.relu, "gelu": nn.functional.gelu}


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
