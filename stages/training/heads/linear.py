"""A linear head: one map from the feature to the embedding. Every closed form becomes one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stages.training.heads.dropout import drop
from stages.training.heads.inputs import Inputs
from stages.training.heads.network import HeadNetwork


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
        """See :meth:`HeadNetwork.transform`."""
        return nn.functional.linear(drop(prepared, self.dropouts, dropout), self.weight, self.bias)


def drawn_map(dim: int, inputs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A weight (``dim``, ``inputs``) and a bias (``dim``,), uniform within 1 / sqrt(``inputs``) like ``nn.Linear``."""
    bound = 1 / math.sqrt(inputs)
    weight = torch.empty(dim, inputs).uniform_(-bound, bound, generator=generator)
    return weight, torch.empty(dim).uniform_(-bound, bound, generator=generator)
