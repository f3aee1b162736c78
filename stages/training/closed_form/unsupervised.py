"""Closed forms without labels: principal components, whitened or not, and average pooling."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from stages.training.closed_form.eigen import SINGULAR, descending
from stages.training.closed_form.kinds import AveragePoolHeadConfig, LinearMapConfig
from stages.training.closed_form.linear_map import TrainingRows, check_dim
from stages.training.heads.inputs import Inputs


def principal_axes(config: LinearMapConfig, rows: TrainingRows, strength: float) -> tuple[Inputs, Tensor]:
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


def average_pool_map(config: AveragePoolHeadConfig, rows: TrainingRows) -> tuple[Inputs, Tensor]:
    """See :class:`AveragePoolHeadConfig`."""
    inputs = rows.observed(config.inputs)
    check_dim(config.dim, inputs.dim, f"features of {inputs.dim:,} dimensions")
    return inputs, functional.adaptive_avg_pool1d(torch.eye(inputs.dim), config.dim).T
