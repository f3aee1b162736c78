"""Closed forms that divide by how classes vary within: within-class and learned whitening, linear discriminants.

All are two rotations with a scaling between. With S the scatter within classes (D, D), R such that R'SR = I makes every
direction vary by 1 within classes: R = V diag(l)^(-1/2) for S = V diag(l) V', or the inverse of a Cholesky factor,
transposed. In this basis the leading eigenvectors U (D, E) of R'TR are those in which a second scatter T is largest
relative to S: the covariance of all rows (``within``, ``learned_whitening``) or that of the class means (``lda``). The
map is (RU)'.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stages.training.closed_form.eigen import descending, inverse_root, shrunk
from stages.training.closed_form.kinds import (
    LdaHeadConfig,
    LearnedWhiteningHeadConfig,
    WithinHeadConfig,
)
from stages.training.closed_form.linear_map import TrainingRows, check_dim, check_within
from stages.training.closed_form.statistics import ledoit_wolf
from stages.training.heads.inputs import Inputs

_FIRST = 1e-10  # of the mean eigenvalue; ten times as much until the matrix has a Cholesky factor


def within_map(config: WithinHeadConfig, rows: TrainingRows) -> tuple[Inputs, Tensor]:
    """See :class:`WithinHeadConfig`."""
    inputs = rows.observed(config.inputs)
    check_dim(config.dim, inputs.dim, f"features of {inputs.dim:,} dimensions")
    given = None if config.shrinkage == "ledoit_wolf" else config.shrinkage
    check_within(rows.classes, inputs.dim, given)
    statistics = rows.statistics(inputs)
    shrinkage = ledoit_wolf(statistics, inputs, rows.features) if given is None else given
    root = inverse_root(shrunk(statistics.within(), shrinkage))
    return inputs, _leading(root, statistics.covariance(), config.dim)


def lda_map(config: LdaHeadConfig, rows: TrainingRows) -> tuple[Inputs, Tensor]:
    """See :class:`LdaHeadConfig`."""
    inputs = rows.observed(config.inputs)
    check_dim(
        config.dim,
        min(inputs.dim, rows.classes.count - 1),
        f"{rows.classes.count:,} classes in {inputs.dim:,} dimensions",
    )
    check_within(rows.classes, inputs.dim, config.shrinkage)
    statistics = rows.statistics(inputs)
    root = inverse_root(shrunk(statistics.within(), config.shrinkage))
    between = shrunk(statistics.between(), config.shrinkage)
    return inputs, _leading(root, between, config.dim)


def learned_whitening_map(config: LearnedWhiteningHeadConfig, rows: TrainingRows) -> tuple[Inputs, Tensor]:
    """See :class:`LearnedWhiteningHeadConfig`."""
    inputs = rows.observed(config.inputs)
    check_dim(config.dim, inputs.dim, f"features of {inputs.dim:,} dimensions")
    check_within(rows.classes, inputs.dim, 0.0)
    # sum over x, y of (x - y)(x - y)' = 2 n sum xx' - 2 (sum x)(sum x)' = 2 n sum (x - m)(x - m)' in a class of n
    # rows of mean m. So the mean over the sum of n (n - 1) ordered pairs is the scatter within classes with a row
    # of each class weighing 2 n over that count.
    sizes = rows.classes.sizes.double()
    pairs = rows.statistics(inputs, 2 * sizes / (sizes * (sizes - 1)).sum()).within()
    root = torch.linalg.inv(_cholesky(pairs)).T
    return inputs, _leading(root, rows.statistics(inputs).covariance(), config.dim)


def _leading(root: Tensor, scatter: Tensor, dim: int) -> Tensor:
    """The map (E, D) to the ``dim`` directions of the largest ``scatter`` (D, D) in the basis ``root`` R (D, D)."""
    _, vectors = descending(root.T @ scatter @ root)
    return (root @ vectors[:, :dim]).T


def _cholesky(matrix: Tensor) -> Tensor:
    """The lower Cholesky factor of ``matrix`` (D, D), its diagonal raised as little as it takes."""
    level = matrix.trace() / len(matrix)
    raised = 0.0
    while True:
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(matrix + raised * level * torch.eye(len(matrix), dtype=matrix.dtype))
        if not failed:
            return factor
        raised = max(_FIRST, 10 * raised)
