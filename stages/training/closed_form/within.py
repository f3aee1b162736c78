"""Closed forms that divide by how classes vary within: within-class and learned whitening, linear discriminants.

All are two rotations with a scaling between. With S the scatter within classes (D, D), R such that R'SR = I makes every
direction vary by 1 within classes: R = V diag(l)^(-1/2) for S = V diag(l) V', or the inverse of a Cholesky factor,
transposed. In this basis the leading eigenvectors U (D, E) of R'TR are those in which a second scatter T is largest
relative to S: the covariance of all rows (``within``, ``learned_whitening``) or that of the class means (``lda``). The
map is (RU)'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stages.training.closed_form.eigen import descending, inverse_root, shrunk
from stages.training.closed_form.linear_map import LinearMapConfig, TrainingRows, check_dim, check_share, check_within
from stages.training.closed_form.statistics import ledoit_wolf
from stages.training.heads.inputs import Inputs

_FIRST = 1e-10  # of the mean eigenvalue; ten times as much until the matrix has a Cholesky factor


@dataclass(frozen=True)
class WithinHeadConfig(LinearMapConfig):
    """S^(-1/2), S the covariance within classes, then the ``dim`` principal components of what it makes of the rows.

    ``shrinkage`` s: S is (1 - s) S + s (tr S / D) I, with s in [0, 1] or after Ledoit and Wolf. Without shrinkage it is
    relevant component analysis (Shental et al., ECCV 2002).
    """

    shrinkage: float | Literal["ledoit_wolf"] = "ledoit_wolf"
    kind: Literal["within"] = "within"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shrinkage != "ledoit_wolf":
            check_share("shrinkage", self.shrinkage)

    def _map(self, rows: TrainingRows) -> tuple[Inputs, Tensor]:
        inputs = rows.observed(self.inputs)
        check_dim(self.dim, inputs.dim, f"features of {inputs.dim:,} dimensions")
        given = None if self.shrinkage == "ledoit_wolf" else self.shrinkage
        check_within(rows.classes, inputs.dim, given)
        statistics = rows.statistics(inputs)
        shrinkage = ledoit_wolf(statistics, inputs, rows.features) if given is None else given
        root = inverse_root(shrunk(statistics.within(), shrinkage))
        return inputs, _leading(root, statistics.covariance(), self.dim)


@dataclass(frozen=True)
class LdaHeadConfig(LinearMapConfig):
    """The ``dim`` directions in which classes differ most for how much they vary within, each of unit variance within.

    ``shrinkage`` s in [0, 1] is that of scikit-learn's ``LinearDiscriminantAnalysis(solver="eigen")``: the covariance
    within classes and the one between them both become (1 - s) S + s (tr S / D) I.
    """

    shrinkage: float = 0.5
    kind: Literal["lda"] = "lda"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("shrinkage", self.shrinkage)

    def _map(self, rows: TrainingRows) -> tuple[Inputs, Tensor]:
        inputs = rows.observed(self.inputs)
        check_dim(
            self.dim,
            min(inputs.dim, rows.classes.count - 1),
            f"{rows.classes.count:,} classes in {inputs.dim:,} dimensions",
        )
        check_within(rows.classes, inputs.dim, self.shrinkage)
        statistics = rows.statistics(inputs)
        root = inverse_root(shrunk(statistics.within(), self.shrinkage))
        between = shrunk(statistics.between(), self.shrinkage)
        return inputs, _leading(root, between, self.dim)


@dataclass(frozen=True)
class LearnedWhiteningHeadConfig(LinearMapConfig):
    """Lw of Radenovic et al. (ECCV 2016; ``whitenlearn`` of cirtorch) over all pairs of rows of one class.

    S is the mean of (x - y)(x - y)' over the pairs, P the inverse of its Cholesky factor, and the map the first
    ``dim`` principal components of P x. A class of n rows has n (n - 1) / 2 pairs: large classes weigh more than in
    ``within``, and nothing is shrunk.
    """

    kind: Literal["learned_whitening"] = "learned_whitening"

    def _map(self, rows: TrainingRows) -> tuple[Inputs, Tensor]:
        inputs = rows.observed(self.inputs)
        check_dim(self.dim, inputs.dim, f"features of {inputs.dim:,} dimensions")
        check_within(rows.classes, inputs.dim, 0.0)
        # sum over x, y of (x - y)(x - y)' = 2 n sum xx' - 2 (sum x)(sum x)' = 2 n sum (x - m)(x - m)' in a class of n
        # rows of mean m. So the mean over the sum of n (n - 1) ordered pairs is the scatter within classes with a row
        # of each class weighing 2 n over that count.
        sizes = rows.classes.sizes.double()
        pairs = rows.statistics(inputs, 2 * sizes / (sizes * (sizes - 1)).sum()).within()
        root = torch.linalg.inv(_cholesky(pairs)).T
        return inputs, _leading(root, rows.statistics(inputs).covariance(), self.dim)


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
