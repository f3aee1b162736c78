"""What the closed forms share: their settings, what they refuse, and the linear head that each becomes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cache.errors import SettingsError
from stages.training.closed_form.statistics import Classes, Statistics, gather_statistics
from stages.training.heads.inputs import Inputs, InputsConfig
from stages.training.heads.linear import LinearHead

UNIT_CENTERED = InputsConfig(unit=True, center=True, rescale="none")


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """What a closed form is computed from: ``features`` (N, D) of any float dtype, never copied whole.

    ``blocks`` are the sizes of the features that stand side by side, and ``seed`` is for what is drawn, if anything.
    """

    features: Tensor
    classes: Classes
    blocks: tuple[int, ...]
    seed: int

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, domains: Tensor, blocks: Sequence[int], seed: int) -> TrainingRows:
        """Rows of ``labels`` (N,) and ``domains`` (N,), integers. Raises ValueError where the shapes do not agree."""
        if features.ndim != 2 or features.shape[1] != sum(blocks) or len(features) < 2:
            raise SettingsError(
                f"features have shape {tuple(features.shape)}; a closed form takes two or more rows of "
                f"{' + '.join(map(str, blocks))} dimensions"
            )
        if not labels.shape == domains.shape == features.shape[:1]:
            raise SettingsError(
                f"{len(features):,} features have labels of shape {tuple(labels.shape)} and domains of shape "
                f"{tuple(domains.shape)}; each takes one integer a row"
            )
        return cls(features, Classes.of(labels, domains), tuple(blocks), seed)

    def observed(self, config: InputsConfig) -> Inputs:
        """The steps of ``config`` with the statistics of the features."""
        inputs = Inputs(config, self.blocks)
        inputs.observe(self.features)
        return inputs

    def statistics(self, inputs: Inputs, weights: Tensor | None = None) -> Statistics:
        """:func:`gather_statistics` of what ``inputs`` makes of the features."""
        return gather_statistics(inputs, self.features, self.classes, weights)


@dataclass(frozen=True, kw_only=True)
class LinearMapConfig(ABC):
    """A linear map (E, D) that is computed from the features, not trained.

    Args:
        dim: E, the size of an embedding.
        dropout: the share of a feature set to zero before the map where it is trained on; alone it changes nothing.
        inputs: the steps before the map.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    dim: int = 64
    dropout: float = 0.2
    inputs: InputsConfig = UNIT_CENTERED

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise SettingsError(f"dim is the size of an embedding, at least 1, got {self.dim}")
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"dropout is the share of a feature set to zero, in [0, 1), got {self.dropout}")

    def fit(self, features: Tensor, labels: Tensor, domains: Tensor, blocks: Sequence[int], seed: int) -> LinearHead:
        """The head of training ``features`` (N, D), of any float dtype; they are read in blocks, never copied whole.

        Args:
            features: (N, D).
            labels: integers (N,); one label in two domains is two classes.
            domains: integers (N,).
            blocks: sizes of the features that stand side by side; their sum is D.
            seed: of what is drawn, where a method draws.

        Raises:
            ValueError: ``dim`` is more than the method can give, or there are too few rows or classes.
        """
        with torch.no_grad():
            inputs, weight = self._map(TrainingRows.of(features, labels, domains, blocks, seed))
        return LinearHead(inputs, weight.float().contiguous(), torch.zeros(len(weight)), self.dropout)

    def build(self, blocks: Sequence[int], _generator: torch.Generator) -> LinearHead:
        """A head of the right shape for features of the sizes ``blocks`` side by side, its weights zero."""
        inputs = Inputs(self.inputs, blocks)
        return LinearHead(inputs, torch.zeros(self.dim, inputs.dim), torch.zeros(self.dim), self.dropout)

    @abstractmethod
    def _map(self, rows: TrainingRows) -> tuple[Inputs, Tensor]:
        """The steps before the map, and the map (E, D)."""


def check_dim(dim: int, most: int, why: str) -> None:
    """Raise ValueError where ``dim`` is more than ``most``, which ``why`` explains."""
    if dim > most:
        advice = f"set dim to {most:,} or less" if most > 0 else "there is nothing to fit"
        raise SettingsError(f"dim is {dim:,}, but {why} give at most {max(most, 0):,}: {advice}")


def check_share(name: str, value: float) -> None:
    """Raise ValueError where ``value`` is not in [0, 1]."""
    if not 0 <= value <= 1:
        raise SettingsError(f"{name} is a share in [0, 1], got {value}")


def check_within(classes: Classes, dim: int, shrinkage: float | None) -> None:
    """Raise ValueError where ``classes`` do not show how D = ``dim`` dimensions vary within, or too little unshrunk."""
    if classes.count == classes.rows:
        raise SettingsError(f"each of the {classes.count:,} classes has one row; how a class varies takes two or more")
    if shrinkage == 0 and (known := classes.rows - classes.count) < dim:
        raise SettingsError(
            f"{classes.rows:,} rows of {classes.count:,} classes vary within them in at most {known:,} of {dim:,} "
            'directions: shrink (kind = "within", "lda" or "discriminant", with shrinkage above 0), or take more rows'
        )
