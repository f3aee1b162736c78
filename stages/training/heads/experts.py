"""Experts: a head for each domain, and a gate that predicts the domain of an image from its feature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stages.training.heads.inputs import Inputs
from stages.training.heads.networks import HeadNetwork


class Gate(NamedTuple):
    """A classifier of d domains: a linear map (d - 1, D) with bias after ``inputs``, and each domain's mean there."""

    inputs: Inputs
    weight: Tensor
    bias: Tensor
    means: Tensor

    @classmethod
    def zero(cls, inputs: Inputs, domains: int) -> Gate:
        """A gate of zeros, of the shape that loaded weights need."""
        less = domains - 1
        return cls(inputs, torch.zeros(less, inputs.dim), torch.zeros(less), torch.zeros(domains, less))

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
