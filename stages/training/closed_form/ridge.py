"""Ridge regression from features to class indicators; the embedding is the prediction, its axes turned."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.training.closed_form.eigen import SINGULAR, descending
from stages.training.closed_form.kinds import RidgeHeadConfig
from stages.training.closed_form.linear_map import TrainingRows, check_dim
from stages.training.closed_form.statistics import Classes
from stages.training.heads.inputs import Inputs

_PENALTIES = torch.logspace(-4, 3, 29, dtype=torch.float64)  # four steps a decade


def ridge_map(config: RidgeHeadConfig, rows: TrainingRows) -> tuple[Inputs, Tensor]:
    """See :class:`RidgeHeadConfig`."""
    inputs = rows.observed(config.inputs)
    classes = rows.classes
    most = min(inputs.dim, classes.count - 1, classes.rows - 1)
    check_dim(config.dim, most, f"{classes.rows:,} rows of {classes.count:,} classes in {inputs.dim:,} dimensions")
    statistics = rows.statistics(inputs)
    values, vectors = descending(statistics.covariance())
    values = values.clamp(min=0)
    share = classes.sizes.double() / classes.rows
    cross = ((statistics.means - share @ statistics.means) * share[:, None]).T  # X'Y / N, rows X less their mean
    aimed = vectors.T @ cross  # in the eigenbasis, (D, C)
    penalty = _gcv(values, aimed, classes) if config.penalty == "gcv" else config.penalty * float(values.mean())
    coefficients = aimed / (values + penalty)[:, None]
    # In the eigenbasis of S = V diag(l) V' the coefficients are B = (diag(l) + penalty I)^-1 V'X'Y / N (D, C), and
    # W = VB. Predictions x'W have the covariance W'SW = A'A with A = diag(l)^(1/2) B, of which C - 1 directions
    # vary. A'A and AA' (D, D) share their eigenvalues e, and u of AA' belongs to A'u / sqrt(e) of A'A. So the
    # embedding x'W A'u / sqrt(e) is the map V B B' diag(l)^(1/2) u / sqrt(e).
    square, root = coefficients @ coefficients.T, values.sqrt()
    spreads, axes = descending(root[:, None] * square * root)
    axes, spreads = axes[:, : config.dim], spreads[: config.dim]
    check_dim(config.dim, int((spreads > SINGULAR * spreads[0]).sum()), "the directions in which predictions vary")
    return inputs, (vectors @ square @ (root[:, None] * axes) / spreads.sqrt()).T


def _gcv(values: Tensor, aimed: Tensor, classes: Classes) -> float:
    """The penalty of the least N |Y - HY|^2 / (N - tr H)^2; H is the ridge's hat matrix, the mean counted as one."""
    # With g_i the row i of V'X'Y / N: |Y - HY|^2 / N = |Y|^2 / N - sum_i |g_i|^2 (l_i + 2 p) / (l_i + p)^2, and
    # tr H = 1 + sum_i l_i / (l_i + p). Each penalty p takes D operations.
    share = classes.sizes.double() / classes.rows
    variance = float((share * (1 - share)).sum())  # of the indicators, over all classes
    explained = aimed.square().sum(1)
    errors = []
    penalties = _PENALTIES * values.mean()
    for penalty in penalties:
        left = variance - float((explained * (values + 2 * penalty) / (values + penalty).square()).sum())
        freedom = 1 - (1 + float((values / (values + penalty)).sum())) / classes.rows
        errors.append(left / freedom**2 if freedom > 0 else torch.inf)
    return float(penalties[int(torch.tensor(errors).argmin())])
