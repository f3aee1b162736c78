"""Ridge regression onto several targets, its penalty judged by what each row is predicted without itself.

With rows Z (N, M) about their mean, targets Y (N, C) about theirs, and the eigenvectors of Z'Z = V diag(l) V':

    W = V diag(1 / (l + penalty)) V' Z'Y
    h_n = sum_m (z_n V)_m^2 / (l_m + penalty) + 1/N
    prediction of row n without row n = y_n - (y_n - prediction of row n) / (1 - h_n)

so that one decomposition serves every penalty, and leaving each row out costs no more than predicting it. To leave out
several rows at once, 1 - h is the matrix I - H of these rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.training.closed_form.eigen import descending

_LEAST = 1e-6  # of 1 - h: a row that only its own target explains


@dataclass(frozen=True, eq=False)
class Ridge:
    """Rows in the basis of their covariance; what every penalty needs. All float64."""

    mean: Tensor
    vectors: Tensor
    values: Tensor
    turned: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Ridge:
        """The decomposition of ``rows`` (N, M)."""
        rows = rows.double()
        mean = rows.mean(0)
        centred = rows - mean
        values, vectors = descending(centred.T @ centred)
        return cls(mean, vectors, values.clamp(min=0), centred @ vectors)

    def fit(self, targets: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
        """The map (M, C) and what is added to it (C,) for ``targets`` (N, C)."""
        targets = targets.double()
        mean = targets.mean(0)
        weight = self.vectors @ self._coefficients(targets - mean, penalty)
        return weight, mean - self.mean @ weight

    def left_out(self, targets: Tensor, penalty: float, groups: Tensor | None = None) -> Tensor:
        """What each row (N, C) is predicted by the ``targets`` (N, C) of all others, or of all other ``groups``."""
        targets = targets.double()
        centred = targets - targets.mean(0)
        residual = centred - self.turned @ self._coefficients(centred, penalty)
        if groups is None:
            leverage = (self.turned.square() / (self.values + penalty)).sum(1) + 1 / len(targets)
            return targets - residual / (1 - leverage).clamp(min=_LEAST)[:, None]
        predicted = torch.empty_like(targets)
        for group in range(int(groups.max()) + 1):
            rows = (groups == group).nonzero()[:, 0]  # none of a group whose records all lack the attribute
            turned = self.turned[rows]
            left = torch.eye(len(rows), dtype=turned.dtype) - 1 / len(targets)
            left -= turned / (self.values + penalty) @ turned.T
            left.diagonal().add_(_LEAST)
            predicted[rows] = targets[rows] - torch.linalg.solve(left, residual[rows])
        return predicted

    def _coefficients(self, centred: Tensor, penalty: float) -> Tensor:
        return (self.turned.T @ centred) / (self.values + penalty)[:, None]
