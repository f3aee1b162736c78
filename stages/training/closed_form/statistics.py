"""What every closed form is computed from: counts, class means and second moments, in one pass over the features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.training.closed_form.classes import Classes
from stages.training.heads.inputs import Inputs

_BLOCK = 4096  # rows at a time: of 4,096 numbers each, 64 MiB
_ALIKE = 1e-6  # of the total: what rounding leaves of a difference of zero


@dataclass(frozen=True, eq=False)
class Statistics:
    """Moments of N rows in C classes, float64, about ``shift``: a row near their mean, so that nothing large cancels.

    Attributes:
        classes: which row is of which class.
        weights: what a row of each class weighs (C,).
        shift: (D,).
        means: of each class (C, D), less ``shift``.
        moment: sum of w (x - shift)(x - shift)' over the rows, (D, D).
    """

    classes: Classes
    weights: Tensor
    shift: Tensor
    means: Tensor
    moment: Tensor

    @property
    def dim(self) -> int:
        """D."""
        return len(self.shift)

    def second_moment(self) -> Tensor:
        """Sum of w xx' over the rows, (D, D)."""
        mass = self._mass()
        mean = mass @ self.means
        return self.moment + _both(mean, self.shift) + mass.sum() * torch.outer(self.shift, self.shift)

    def covariance(self) -> Tensor:
        """Sum of w (x - m)(x - m)' over the rows, (D, D); m is their weighted mean."""
        mass = self._mass()
        mean = mass @ self.means
        return self.moment - torch.outer(mean, mean) / mass.sum()

    def within(self) -> Tensor:
        """Sum of w (x - m)(x - m)' over the rows, (D, D); m is the mean of the row's class.

        Raises ValueError where the rows of each class are all alike.
        """
        within = self.moment - _scatter(self.means, self._mass())
        if not within.trace() > _ALIKE * self.covariance().trace():
            raise ValueError("the rows of each class are all alike; how a class varies cannot be seen from them")
        return within

    def between(self, weights: Tensor | None = None) -> Tensor:
        """Covariance of the class means, (D, D), each weighing ``weights`` (C,) or, left out, as much as its rows."""
        mass = self._mass() if weights is None else weights
        mean = mass @ self.means / mass.sum()
        return _scatter(self.means - mean, mass)

    def _mass(self) -> Tensor:
        return self.weights * self.classes.sizes


def gather_statistics(inputs: Inputs, features: Tensor, classes: Classes, weights: Tensor | None = None) -> Statistics:
    """One pass over ``features`` (N, D), of any float dtype, as ``inputs`` makes them, by blocks of rows.

    Products are float32, sums over blocks float64. A row of class c weighs ``weights[c]`` (C,); left out, 1 / N.
    Raises ValueError where a feature is not finite.
    """
    if weights is None:
        weights = torch.full((classes.count,), 1 / classes.rows, dtype=torch.float64)
    shift = torch.zeros(0)
    sums = torch.zeros(classes.count, inputs.dim, dtype=torch.float64)
    moment = torch.zeros(inputs.dim, inputs.dim, dtype=torch.float64)
    for rows, of_row in blocks_of_rows(inputs, features, classes):
        if not len(shift):
            shift = rows.mean(0)
        rows = rows - shift  # not in place: without any step, float32 features come as they are
        sums.index_add_(0, of_row, rows.double())
        moment += (rows * weights[of_row, None].float()).T @ rows
    if not moment.isfinite().all():
        raise ValueError("the features to fit hold a NaN or an infinite number; leave those rows out")
    means = sums / classes.sizes[:, None]
    return Statistics(classes, weights, shift.double(), means, (moment + moment.T) / 2)


def blocks_of_rows(inputs: Inputs, features: Tensor, classes: Classes) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of ``features`` (N, D) as ``inputs`` makes them, (B, D) float32, each with its classes (B,)."""
    for rows, of_row in zip(torch.split(features, _BLOCK), torch.split(classes.of_row, _BLOCK), strict=True):
        yield inputs(rows), of_row


def _scatter(means: Tensor, mass: Tensor) -> Tensor:
    return (means * mass[:, None]).T @ means


def _both(left: Tensor, right: Tensor) -> Tensor:
    product = torch.outer(left, right)
    return product + product.T
