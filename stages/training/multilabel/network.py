"""The shallow network of "Boosting image retrieval with accurately labelled small data".

A hidden layer learns to name every attribute of an image; then the classifiers are dropped, and it is searched.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stages.training.heads.inputs import Inputs
from stages.training.heads.networks import HeadNetwork

BIAS = 0.01


class MultilabelNetwork(HeadNetwork):
    """``weights`` and ``biases`` of each layer, on what ``inputs`` makes of a feature."""

    def __init__(self, inputs: Inputs, maps: Sequence[tuple[Tensor, Tensor]]) -> None:
        super().__init__(inputs)
        self.weights = nn.ParameterList([nn.Parameter(weight) for weight, _ in maps])
        self.biases = nn.ParameterList([nn.Parameter(bias) for _, bias in maps])

    @property
    def dim(self) -> int:
        """E."""
        return len(self.biases[-1])

    def transform(self, prepared: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        del dropout
        hidden = prepared
        for weight, bias in zip(self.weights, self.biases, strict=True):
            hidden = torch.relu(nn.functional.linear(hidden, weight, bias))
        return hidden


def kaiming_map(outputs: int, inputs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A weight (``outputs``, ``inputs``), uniform within sqrt(6 / ``inputs``), and a bias (``outputs``,) of 0.01."""
    weight = torch.empty(outputs, inputs)
    nn.init.kaiming_uniform_(weight, generator=generator)
    return weight, torch.full((outputs,), BIAS)
