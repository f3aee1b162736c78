"""Fit a closed form: the map of each kind, and which is which.

Those that divide by how classes vary within are two rotations with a scaling between. With S the scatter within classes
(D, D), R = V diag(l)^(-1/2) for S = V diag(l) V' makes every direction vary by 1 within classes: R'SR = I. In that
basis the leading eigenvectors U (D, E) of R'TR are those in which a second scatter T is largest relative to S: the
covariance of all rows (``within``, ``learned_whitening``) or that of the class means (``lda``). The map is (RU)'.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from cache.errors import SettingsError
from stages.training.closed_form import kinds
from stages.training.closed_form.cross_validation import Scatters, choose, strengths
from stages.training.closed_form.statistics import (
    SINGULAR,
    Classes,
    TrainingRows,
    check_dim,
    check_within,
    descending,
    ledoit_wolf,
)
from stages.training.heads.networks import Inputs, LinearHead

_PENALTIES = torch.logspace(-4, 3, 29, dtype=torch.float64)  # four steps a decade
_LEAST = 1e-10  # of the mean eigenvalue of a scatter that is not shrunk: a column may be constant


@torch.no_grad()
def fit(config: kinds.LinearMapConfig, rows: TrainingRows) -> LinearHead:
    """The head of ``config``. See :meth:`kinds.LinearMapConfig.fit`."""
    if isinstance(config, kinds.DiscriminantHeadConfig):
        inputs, weight = _discriminant_map(config, rows)
    else:
        inputs = rows.observed(config.inputs)
        weight = _map(config, rows, inputs)
    return LinearHead(inputs, weight.float().contiguous(), torch.zeros(len(weight)), config.dropout)


def _map(config: kinds.LinearMapConfig, rows: TrainingRows, inputs: Inputs) -> Tensor:
    """The map (E, D) of what ``inputs`` makes of the features."""
    classes, every = rows.classes, f"features of {inputs.dim:,} dimensions"
    match config:
        case kinds.AveragePoolHeadConfig():
            check_dim(config.dim, inputs.dim, every)
            return functional.adaptive_avg_pool1d(torch.eye(inputs.dim), config.dim).T
        case kinds.LdaHeadConfig():
            most = min(inputs.dim, classes.count - 1)
            check_dim(config.dim, most, f"{classes.count:,} classes in {inputs.dim:,} dimensions")
            check_within(classes, inputs.dim, config.shrinkage)
            statistics = rows.statistics(inputs)
            root = _inverse_root(_shrunk(statistics.within(), config.shrinkage))
            return _leading(root, _shrunk(statistics.between(), config.shrinkage), config.dim)
        case kinds.LearnedWhiteningHeadConfig():
            check_dim(config.dim, inputs.dim, every)
            check_within(classes, inputs.dim, 0.0)
            # sum over x, y of (x - y)(x - y)' = 2 n sum xx' - 2 (sum x)(sum x)' = 2 n sum (x - m)(x - m)' in a class of
            # n rows of mean m. So the mean over the sum of n (n - 1) ordered pairs is the scatter within classes with a
            # row of each class weighing 2 n over that count. The published inverse of a Cholesky factor is R times a
            # rotation, which the principal components undo.
            sizes = classes.sizes.double()
            pairs = rows.statistics(inputs, 2 * sizes / (sizes * (sizes - 1)).sum()).within()
            return _leading(_inverse_root(pairs, least=_LEAST), rows.statistics(inputs).covariance(), config.dim)
        case kinds.PcaHeadConfig():
            return _principal_axes(config.dim, rows, inputs, strength=0.0)
        case kinds.RidgeHeadConfig():
            return _ridge_map(config, rows, inputs)
        case kinds.WhiteningHeadConfig():
            return _principal_axes(config.dim, rows, inputs, config.strength)
        case kinds.WithinHeadConfig():
            check_dim(config.dim, inputs.dim, every)
            given = None if config.shrinkage == "ledoit_wolf" else config.shrinkage
            check_within(classes, inputs.dim, given)
            statistics = rows.statistics(inputs)
            shrinkage = ledoit_wolf(statistics, inputs, rows) if given is None else given
            root = _inverse_root(_shrunk(statistics.within(), shrinkage))
            return _leading(root, statistics.covariance(), config.dim)
        case _:
            raise NotImplementedError(f"{type(config).__name__} has no map")


def _principal_axes(dim: int, rows: TrainingRows, inputs: Inputs, strength: float) -> Tensor:
    """The leading axes (E, D) of the covariance, each divided by its standard deviation to the power ``strength``."""
    most = min(inputs.dim, rows.classes.rows - 1)
    check_dim(dim, most, f"{rows.classes.rows:,} rows of {inputs.dim:,} dimensions")
    values, vectors = descending(rows.statistics(inputs).covariance())
    if strength == 0:
        return vectors[:, :dim].T
    varying = int((values > SINGULAR * values[0]).sum())
    check_dim(dim, varying, "the directions in which the features vary")
    return (vectors[:, :dim] * values[:dim].pow(-strength / 2)).T


def _shrunk(covariance: Tensor, shrinkage: float) -> Tensor:
    """(1 - s) S + s (tr S / D) I of the covariance S (D, D) and the ``shrinkage`` s in [0, 1]."""
    level = covariance.trace() / len(covariance)
    return (1 - shrinkage) * covariance + shrinkage * level * torch.eye(len(covariance), dtype=covariance.dtype)


def _inverse_root(covariance: Tensor, *, least: float | None = None) -> Tensor:
    """A matrix R (D, D) with R' S R = I for the ``covariance`` S (D, D): its inverse root times a rotation.

    Raises ValueError where S is singular; with ``least``, its eigenvalues are that share of their mean or more.
    """
    values, vectors = descending(covariance)
    if least is not None:
        values = values.clamp(min=least * float(values.mean()))
    elif not values[-1] > SINGULAR * values[0]:
        flat = int((values <= SINGULAR * values[0]).sum())
        raise SettingsError(f"nothing varies within classes in {flat:,} of {len(values):,} directions; raise shrinkage")
    return vectors * values.rsqrt()


def _leading(root: Tensor, scatter: Tensor, dim: int) -> Tensor:
    """The map (E, D) to the ``dim`` directions of the largest ``scatter`` (D, D) in the basis ``root`` R (D, D)."""
    _, vectors = descending(root.T @ scatter @ root)
    return (root @ vectors[:, :dim]).T


def _discriminant_map(config: kinds.DiscriminantHeadConfig, rows: TrainingRows) -> tuple[Inputs, Tensor]:
    point, _ = choose(config, rows)
    inputs = rows.observed(replace(config.inputs, root=point.root))
    # float64: in float32 the order of close axes, and so which are the first, moves similarities by up to 0.01.
    scatters = Scatters(inputs, rows.features, rows.classes, size=inputs.dim, dtype=torch.float64)
    axes, values = scatters.axes(point.shrinkage, point.total)
    return inputs, (axes[:, : config.dim] * strengths(values[: config.dim], point.power)).T


def _ridge_map(config: kinds.RidgeHeadConfig, rows: TrainingRows, inputs: Inputs) -> Tensor:
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
    return (vectors @ square @ (root[:, None] * axes) / spreads.sqrt()).T


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
