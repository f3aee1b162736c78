"""A linear head: one map from the feature to the embedding, and what every closed form becomes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stages.training.heads.inputs import Inputs, InputsConfig
from stages.training.losses.kernel import unit_length


@dataclass(frozen=True)
class LinearHeadConfig:
    """One linear map from the feature to ``dim`` numbers, brought to unit length; in training, dropout before it.

    ``inputs`` are the steps before the map. UniFEx (arXiv 2409.13513) has none: center = false, rescale = "none".
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["linear"] = "linear"
    dim: int = 64
    dropout: float = 0.2
    inputs: InputsConfig = InputsConfig()

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim is the size of an embedding, at least 1, got {self.dim}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is the share of a feature set to zero, in [0, 1), got {self.dropout}")

    def build(self, blocks: Sequence[int], generator: torch.Generator) -> LinearHead:
        """The untrained head of features of the sizes ``blocks`` side by side, its weights drawn from ``generator``."""
        inputs = Inputs(self.inputs, blocks)
        bound = 1 / math.sqrt(inputs.dim)
        weight = torch.empty(self.dim, inputs.dim).uniform_(-bound, bound, generator=generator)
        return LinearHead(
            inputs, weight, torch.empty(self.dim).uniform_(-bound, bound, generator=generator), self.dropout
        )


class LinearHead(nn.Module):
    """``weight`` (E, D) and ``bias`` (E,), float32, on what ``inputs`` makes of a feature."""

    def __init__(self, inputs: Inputs, weight: Tensor, bias: Tensor, dropout: float = 0.0) -> None:
        super().__init__()
        self.inputs = inputs
        self.dropout = dropout
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def observe(self, features: Tensor) -> None:
        """Take the statistics that ``inputs`` needs from the training features (N, D)."""
        self.inputs.observe(features)

    def project(self, features: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        """Embeddings (B, E) before unit length of ``features`` (B, D); with a generator, dropout is drawn from it."""
        features = self.inputs(features)
        if dropout is not None and self.dropout > 0:
            kept = torch.empty_like(features).bernoulli_(1 - self.dropout, generator=dropout)
            features = features * kept / (1 - self.dropout)
        return nn.functional.linear(features, self.weight, self.bias)

    def forward(self, features: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        """:meth:`project` brought to unit length."""
        return unit_length(self.project(features, dropout))
