"""Fit a closed form: which function computes the map of which kind."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.training.closed_form import kinds
from stages.training.closed_form.discriminant import discriminant_map
from stages.training.closed_form.linear_map import TrainingRows
from stages.training.closed_form.ridge import ridge_map
from stages.training.closed_form.unsupervised import average_pool_map, principal_axes
from stages.training.closed_form.within import lda_map, learned_whitening_map, within_map
from stages.training.heads.inputs import Inputs
from stages.training.heads.linear import LinearHead


def fit(config: kinds.LinearMapConfig, rows: TrainingRows) -> LinearHead:
    """The head of ``config``. See :meth:`kinds.LinearMapConfig.fit`."""
    with torch.no_grad():
        inputs, weight = _map(config, rows)
    return LinearHead(inputs, weight.float().contiguous(), torch.zeros(len(weight)), config.dropout)


def _map(config: kinds.LinearMapConfig, rows: TrainingRows) -> tuple[Inputs, Tensor]:
    """The steps before the map, and the map (E, D)."""
    match config:
        case kinds.AveragePoolHeadConfig():
            return average_pool_map(config, rows)
        case kinds.DiscriminantHeadConfig():
            return discriminant_map(config, rows)
        case kinds.LdaHeadConfig():
            return lda_map(config, rows)
        case kinds.LearnedWhiteningHeadConfig():
            return learned_whitening_map(config, rows)
        case kinds.PcaHeadConfig():
            return principal_axes(config, rows, strength=0.0)
        case kinds.RidgeHeadConfig():
            return ridge_map(config, rows)
        case kinds.WhiteningHeadConfig():
            return principal_axes(config, rows, config.strength)
        case kinds.WithinHeadConfig():
            return within_map(config, rows)
        case _:
            raise NotImplementedError(f"{type(config).__name__} has no map")
