"""Learned whitening: what varies between two images of one class is made small, then principal components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stages.training.closed_form.eigen import descending
from stages.training.closed_form.linear_map import LinearMapConfig, TrainingRows, check_dim, check_within
from stages.training.heads.inputs import Inputs

_FIRST = 1e-10  # of the mean eigenvalue; ten times as much until the matrix has a Cholesky factor


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
        check_dim(self.dim, inputs.dim, f"features of {inputs.dim:,} numbers")
        check_within(rows.classes, inputs.dim, 0.0)
        # The sum of (x - y)(x - y)' over the ordered pairs of a class of n rows is 2 n times its scatter.
        sizes = rows.classes.sizes.double()
        pairs = rows.statistics(inputs, 2 * sizes / (sizes * (sizes - 1)).sum()).within()
        root = torch.linalg.inv(_cholesky(pairs)).T
        covariance = rows.statistics(inputs).covariance()
        _, vectors = descending(root.T @ covariance @ root)
        return inputs, (root @ vectors[:, : self.dim]).T


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
