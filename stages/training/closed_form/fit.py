"""Fit a closed form: which function computes the map of which kind."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.training.closed_form.discriminant import discriminant_map
from stages.training.closed_form.kinds import (
    AveragePoolHeadConfig,
    DiscriminantHeadConfig,
    LdaHeadConfig,
    LearnedWhiteningHeadConfig,
    LinearMapConfig,
    PcaHeadConfig,
    RidgeHeadConfig,
    WhiteningHeadConfig,
    WithinHeadConfig,
)
from stages.training.closed_form.linear_map import TrainingRows
from stages.training.closed_form.ridge import ridge_map
from stages.training.closed_form.unsupervised import average_pool_map, principal_axes
from stages.training.closed_form.within import lda_map, learned_whitening_map, within_map
from stages.training.heads.inputs import Inputs
from stages.training.heads.linear import LinearHead


def fit(config: LinearMapConfig, rows: TrainingRows) -> LinearHead:
    """The head of ``config``. See :meth:`LinearMapConfig.fit`."""
    with torch.no_grad():
        inputs, weight = _map(config, rows)
    return LinearHead(inputs, weight.float().contiguous(), torch.zeros(len(weight)), config.dropout)


def _map(config: LinearMapConfig, rows: TrainingRows) -> tuple[Inputs, Tensor]:
    """The steps before the map, and the map (E, D)."""
    match config:
        case AveragePoolHeadConfig():
            return average_pool_map(config, rows)
        case DiscriminantHeadConfig():
            return discriminant_map(config, rows)
        case LdaHeadConfig():
            return lda_map(config, rows)
        case LearnedWhiteningHeadConfig():
            return learned_whitening_map(config, rows)
        case PcaHeadConfig():
            return principal_axes(config, rows, strength=0.0)
        case RidgeHeadConfig():
            return ridge_map(config, rows)
        case WhiteningHeadConfig():
            return principal_axes(config, rows, config.strength)
        case WithinHeadConfig():
            return within_map(config, rows)
        case _:
            raise NotImplementedError(f"{type(config).__name__} has no map")
