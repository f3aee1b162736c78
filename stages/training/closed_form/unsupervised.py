"""Closed forms without labels: principal components, whitened or not, and average pooling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from stages.training.closed_form.eigen import SINGULAR, descending
from stages.training.closed_form.linear_map import LinearMapConfig, TrainingRows, check_dim, check_share
from stages.training.heads.inputs import Inputs, InputsConfig


@dataclass(frozen=True)
class PcaHeadConfig(LinearMapConfig):
    """The ``dim`` directions in which the features vary most, as they are.

    >>> import torch
    >>> features = torch.tensor([[3.0, 0.1], [-3.0, 0.1], [0.1, -1.0], [-0.1, 1.0]])
    >>> nothing = torch.zeros(4, dtype=torch.int64)
    >>> head = PcaHeadConfig(dim=1, inputs=InputsConfig(rescale="none")).fit(features, nothing, nothing, [2], seed=0)
    >>> head.weight.shape, bool(head.weight[0, 0] > 0.99)
    (torch.Size([1, 2]), True)
    """

    kind: Literal["pca"] = "pca"

    def _map(self, rows: TrainingRows) -> tuple[Inputs, Tensor]:
        return _principal_axes(rows, self, strength=0.0)


@dataclass(frozen=True)
class WhiteningHeadConfig(LinearMapConfig):
    """diag(l)^(-strength/2) V': eigenvalues l and eigenvectors V of the covariance.

    ``strength`` in [0, 1]: 1 whitens, 0 is PCA (PCAw of the Met dataset: Ypsilantis et al., NeurIPS 2021).
    """

    strength: float = 1.0
    kind: Literal["whitening"] = "whitening"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("strength", self.strength)

    def _map(self, rows: TrainingRows) -> tuple[Inputs, Tensor]:
        return _principal_axes(rows, self, self.strength)


@dataclass(frozen=True)
class AveragePoolHeadConfig(LinearMapConfig):
    """Dimension e is the mean of the dimensions floor(e D / E) to ceil((e + 1) D / E) - 1 of the feature.

    It is the neck of UniFEx (arXiv 2409.13513) before any training: nothing is learned.
    """

    inputs: InputsConfig = InputsConfig(center=False, rescale="none")
    kind: Literal["average_pool"] = "average_pool"

    def _map(self, rows: TrainingRows) -> tuple[Inputs, Tensor]:
        inputs = rows.observed(self.inputs)
        check_dim(self.dim, inputs.dim, f"features of {inputs.dim:,} dimensions")
        return inputs, functional.adaptive_avg_pool1d(torch.eye(inputs.dim), self.dim).T


def _principal_axes(rows: TrainingRows, config: LinearMapConfig, strength: float) -> tuple[Inputs, Tensor]:
    """The leading axes (E, D) of the covariance, each divided by its standard deviation to the power ``strength``."""
    inputs = rows.observed(config.inputs)
    most = min(inputs.dim, rows.classes.rows - 1)
    check_dim(config.dim, most, f"{rows.classes.rows:,} rows of {inputs.dim:,} dimensions")
    values, vectors = descending(rows.statistics(inputs).covariance())
    axes, variances = vectors[:, : config.dim], values[: config.dim]
    if strength == 0:
        return inputs, axes.T
    varying = int((values > SINGULAR * values[0]).sum())
    check_dim(config.dim, varying, "the directions in which the features vary")
    return inputs, (axes * variances.pow(-strength / 2)).T
