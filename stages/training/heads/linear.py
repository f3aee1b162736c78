"""A linear head: one map from the feature to the embedding. Every closed form becomes one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from cache.errors import SettingsError
from stages.training.heads.dropout import check_shares, drop
from stages.training.heads.inputs import Inputs, InputsConfig
from stages.training.heads.network import HeadNetwork


@dataclass(frozen=True)
class LinearHeadConfig:
    """One linear map from the feature to ``dim`` dimensions, then unit length.

    Args:
        dim: E.
        dropout: in training, the share of the feature that is set to zero before the map.
        dropouts: several shares instead: the mean of the map over one dropout of each, with one product of matrices
            (Inoue, Multi-Sample Dropout, 2019).
        nested: smaller sizes, ascending: the first so many dimensions are an embedding too. The loss is the sum over
            these sizes and ``dim``, with the first dimensions of one set of prototypes (Kusupati et al., Matryoshka
            Representation Learning, NeurIPS 2022, the tied form).
        inputs: the steps before the map. UniFEx (arXiv 2409.13513) has none: center = false, rescale = "none".
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["linear"] = "linear"
    dim: int = 64
    dropout: float = 0.2
    dropouts: tuple[float, ...] = ()
    nested: tuple[int, ...] = ()
    inputs: InputsConfig = InputsConfig()

    def __post_init__(self) -> None:
        check_dim(self.dim)
        check_shares([self.dropout], "dropout")
        check_shares(self.dropouts, "dropouts")
        if list(self.nested) != sorted({*self.nested}) or not all(0 < size < self.dim for size in self.nested):
            raise SettingsError(
                f"nested are sizes below dim ({self.dim}), at least 1 and ascending, got {list(self.nested)}"
            )

    def build(self, blocks: Sequence[int], generator: torch.Generator) -> LinearHead:
        """The untrained head for features of ``blocks`` sizes side by side, initialized from ``generator``."""
        inputs = Inputs(self.inputs, blocks)
        weight, bias = drawn_map(self.dim, inputs.dim, generator)
        return LinearHead(inputs, weight, bias, self.dropout, self.dropouts)


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


def check_dim(dim: int) -> None:
    """ValueError unless an embedding can have ``dim`` dimensions."""
    if dim < 1:
        raise SettingsError(f"dim is the size of an embedding, at least 1, got {dim}")
