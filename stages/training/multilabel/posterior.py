"""Posteriors as an embedding: what each attribute may be, attribute by attribute, in closed form.

::

                        ridge onto the values of an attribute, softmax, unit length, times the root of its weight
    feature --inputs--> ... the same for every attribute                                            (the posteriors)
                        the leading principal axes of the feature, times the root of theirs         (the rest)

The similarity of two images is the sum over attributes of the weight times the cosine of their posteriors: an image
whose combination of attributes was never seen is found by each of them. Weights say what *similar* means, and are
no part of what is learned.

Ridge regression onto several targets, on rows or on their likeness to landmarks, and its leave-one-out predictions.

With rows Z (N, M) about their mean, targets Y (N, C) about theirs, and the eigenvectors of Z'Z = V diag(l) V':

    W = V diag(1 / (l + penalty)) V' Z'Y
    h_n = sum_m (z_n V)_m^2 / (l_m + penalty) + 1/N
    prediction of row n without row n = y_n - (y_n - prediction of row n) / (1 - h_n)

so that one decomposition serves every penalty, and leaving each row out costs no more than predicting it. To leave out
several rows at once, 1 - h is the matrix I - H of these rows.

Where only the products K = Z Z' of the rows are known, the same follows from the eigenvectors U of K about its means:
Z V is U diag(l)^(1/2), and the map is one from products with the rows, U diag(1 / (l + penalty)) U'Y.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.training.closed_form.statistics import descending
from stages.training.heads.networks import FittedNetwork, Inputs
from stages.training.losses.angle import normalize

_LEAST = 1e-6  # of 1 - h: a row that only its own target explains
_SINGULAR = 1e-12  # of the largest eigenvalue: what float64 leaves of zero
_SINGULAR_KERNEL = 1e-10  # the same, of a matrix of exponentials


@dataclass(frozen=True, eq=False)
class Ridge:
    """Rows in the basis of their covariance; what every penalty needs. All float64."""

    mean: Tensor  # of the rows (M,)
    vectors: Tensor  # the basis (M, m)
    values: Tensor  # l (m,)
    turned: Tensor  # Z V (N, m)

    @classmethod
    def of(cls, rows: Tensor) -> Ridge:
        """The decomposition of ``rows`` (N, M)."""
        rows = rows.double()
        mean = rows.mean(0)
        centred = rows - mean
        values, vectors = descending(centred.T @ centred)
        return cls(mean, vectors, values.clamp(min=0), centred @ vectors)

    @classmethod
    def of_products(cls, products: Tensor, known: Tensor) -> Ridge:
        """That of those ``known`` (N,) of R rows whose ``products`` (R, R) with each other take the rows' place."""
        among = products[known][:, known].double()
        mean = among.mean(0)
        values, vectors = descending(among - mean - mean[:, None] + mean.mean())
        rank = int((values > _SINGULAR * values[0]).sum())
        values, vectors = values[:rank], vectors[:, :rank]
        means, basis = mean.new_zeros(len(products)), mean.new_zeros(len(products), rank)
        means[known], basis[known] = mean, vectors / values.sqrt()
        return cls(means, basis, values, vectors * values.sqrt())

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
            leverage = self.turned.square() @ (self.values + penalty).reciprocal() + 1 / len(targets)
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


def likeness(rows: Tensor, landmarks: Tensor, width: float) -> Tensor:
    """exp(-|x - y|^2 / (2 width^2)) (n, M) of ``rows`` (n, D) and ``landmarks`` (M, D), all of unit length."""
    return torch.exp((rows @ landmarks.T - 1) / width**2)


def whitening_of(landmarks: Tensor, width: float) -> Tensor:
    """The matrix (M, m) that turns likenesses into coordinates whose products they are, or nearly (Nystroem's map)."""
    # With K = V diag(l) V' the likenesses of the landmarks, coordinates k(x)' V diag(l)^(-1/2) have the products
    # k(x)' K^-1 k(y), which for landmarks x, y is K again.
    values, vectors = descending(likeness(landmarks, landmarks, width).double())
    rank = int((values > _SINGULAR_KERNEL * values[0]).sum())
    return vectors[:, :rank] / values[:rank].sqrt()


def spread_rows(count: int, most: int) -> Tensor:
    """The numbers of at most ``most`` of ``count`` rows, at equal distances."""
    if count <= most:
        return torch.arange(count)
    return (torch.arange(most, dtype=torch.float64) * (count / most)).long()


class PosteriorNetwork(FittedNetwork):
    """The regressions and what is made of them."""

    landmarks: Tensor  # (M, D) with ``rbf``, else none
    weight: Tensor  # (M or D, S), onto the S values of all attributes
    bias: Tensor  # (S,)
    sizes: Tensor  # how many values each attribute has (A,)
    several: Tensor  # (A,), 1 where an attribute has several values
    factors: Tensor  # the roots of the weights (A,)
    temperature: Tensor
    turn: Tensor  # (S, E) where posteriors have more than E dimensions
    axes: Tensor  # (D, R), the principal axes that fill the rest

    def __init__(self, inputs: Inputs, width: float) -> None:
        super().__init__(inputs)
        self.width = width

    @property
    def dim(self) -> int:
        return (self.turn.shape[1] if self.turn.numel() else len(self.bias)) + self.axes.shape[-1]

    def predict(self, prepared: Tensor) -> Tensor:
        """The predictions (B, S) of the regressions for prepared rows (B, D)."""
        rows = likeness(prepared, self.landmarks, self.width) if self.landmarks.numel() else prepared
        return rows @ self.weight + self.bias

    def posteriors(self, predicted: Tensor) -> Tensor:
        """The posteriors (B, S) of what is ``predicted`` (B, S), each attribute's as long as its factor."""
        parts = torch.split(predicted, self.sizes.tolist(), dim=1)
        posteriors = [
            normalize(part.clamp(0, 1) if several else torch.softmax(part / self.temperature, 1)) * factor
            for part, several, factor in zip(parts, self.several.tolist(), self.factors, strict=True)
        ]
        return torch.cat(posteriors, 1)

    def transform(self, prepared: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        del dropout
        posteriors = self.posteriors(self.predict(prepared))
        if self.turn.numel():
            posteriors = posteriors @ self.turn
        return torch.cat([posteriors, prepared @ self.axes], 1) if self.axes.numel() else posteriors
