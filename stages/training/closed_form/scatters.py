"""Eigenvectors in a stated order and sign; how classes vary within and their means, and the axes between the two."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.training.closed_form.statistics import Classes, gather_statistics
from stages.training.heads.inputs import Inputs

SINGULAR = 1e-7  # of the largest eigenvalue: what rounding leaves of zero in sums of float32 products

# A direction in which no class mean varies comes after the others, in the order of the total scatter.
_REST = 1e-3


def descending(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (D,), largest first, and the eigenvectors (D, D) in columns, the largest number of each positive."""
    values, vectors = torch.linalg.eigh(symmetric)
    values, vectors = values.flip(0), vectors.flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return values, vectors * torch.where(largest < 0, -1.0, 1.0).to(vectors.dtype)


class Scatters:
    """What the discriminants of one set of rows share, whatever their shrinkage.

    They are of ``dtype`` and of ``features`` (N, D); ``size`` is D, or what D was before they were reduced. Every row
    weighs the same in S_w, every domain in S_b and in S_t: where domains share a gallery, the classes of a small one
    must be separated no less well, but how images of one class differ is best estimated from all.
    """

    def __init__(self, inputs: Inputs, features: Tensor, classes: Classes, *, size: int, dtype: torch.dtype) -> None:
        statistics = gather_statistics(inputs, features, classes)
        within = statistics.within()
        if len(torch.unique(classes.domains)) > 1:
            statistics = gather_statistics(inputs, features, classes, classes.row_weights())
        values, vectors = descending(within.to(dtype))
        self.vectors = vectors  # eigenvectors of S_w, the covariance within classes, in columns (D, D)
        self.values = values.clamp(min=0)  # its eigenvalues (D,), largest first
        self.level = float(within.trace()) / size  # their mean over all dimensions of the feature
        self.between, self.total = (  # S_b, the covariance of class means, and S_t, the second moment, in that basis
            vectors.T @ scatter.to(dtype) @ vectors
            for scatter in (statistics.between(classes.class_weights()), statistics.second_moment())
        )
        self.rank = classes.count - 1  # the number of directions that class means span

    def axes(self, shrinkage: float, total: float) -> tuple[Tensor, Tensor]:
        """Directions (D, D) in columns of unit variance within classes, and the scatter along each (D,), largest first.

        Within is (1 - shrinkage) S_w + shrinkage tr(S_w) / D I, and the scatter (1 - total) S_b + total c S_t where c
        makes the traces agree.
        """
        # With S_w = V diag(w) V' the shrunk covariance is V diag((1 - g) w + g level) V'. P = V diag(root) makes it the
        # identity, and P'S_b P = diag(root) (V'S_b V) diag(root): V'S_b V is computed once, (D,) roots for each g. With
        # U the eigenvectors of the scatter in that basis, the directions are the columns of PU.
        root = ((1 - shrinkage) * self.values + shrinkage * self.level).rsqrt()
        between, whole = (root[:, None] * scatter * root for scatter in (self.between, self.total))
        share = max(total, _REST) * between.trace() / whole.trace()
        values, vectors = descending((1 - max(total, _REST)) * between + share * whole)
        values = values.clamp(min=0)
        if total == 0:
            values[self.rank :] = 0
        return self.vectors @ (root[:, None] * vectors), values


def strengths(values: Tensor, power: float) -> Tensor:
    """(l / l_1)^power of the scatters l (E,) along the axes: what each axis is multiplied by."""
    return (values / values[0]).pow(power)
