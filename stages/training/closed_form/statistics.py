"""What every closed form is computed from: rows, their counts, class means and second moments in one pass; axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cache.errors import SettingsError
from stages.training.heads.kinds import InputsConfig
from stages.training.heads.networks import Inputs

_BLOCK = 4096  # rows at a time: of 4,096 dimensions, 64 MiB
_ALIKE = 1e-6  # of the total: what rounding leaves of a difference of zero
SINGULAR = 1e-7  # of the largest eigenvalue: what rounding leaves of zero in sums of float32 products


@dataclass(frozen=True, eq=False)
class Classes:
    """C classes of N rows. One label in two domains is two classes, as it is when retrieval is scored."""

    of_row: Tensor  # the class (N,) of each row, int64 in [0, C)
    sizes: Tensor  # rows (C,) of each class, int64, at least 1
    domains: Tensor  # the domain (C,) of each class, int64 in [0, number of domains)
    labels: Tensor  # the label (C,) of each class, int64 of any value

    @classmethod
    def of(cls, labels: Tensor, domains: Tensor) -> Classes:
        """The classes of rows with ``labels`` (N,) and ``domains`` (N,), integers of any value."""
        _, domains = torch.unique(domains, return_inverse=True)
        pairs, of_row, sizes = torch.unique(
            torch.stack([domains, labels]), dim=1, return_inverse=True, return_counts=True
        )
        return cls(of_row, sizes, pairs[0], pairs[1])

    @property
    def rows(self) -> int:
        return len(self.of_row)

    @property
    def count(self) -> int:
        return len(self.sizes)

    def weights(self, counts: Tensor) -> Tensor:
        """What one of the ``counts`` (C,) of a class weighs when every domain is to weigh the same; all together, 1."""
        counted = torch.bincount(self.domains, counts.double())
        return (1 / (len(counted) * counted))[self.domains]

    def take(self, rows: Tensor) -> Classes:
        """The classes of ``rows`` (n,), positions, numbered anew."""
        return Classes.of(self.labels[self.of_row[rows]], self.domains[self.of_row[rows]])


@dataclass(frozen=True, eq=False)
class Statistics:
    """Moments of N rows in C classes, float64, about ``shift``, a row near their mean: so nothing large cancels."""

    mass: Tensor  # what the rows of each class weigh together (C,)
    shift: Tensor  # (D,)
    means: Tensor  # of each class (C, D), less shift
    moment: Tensor  # sum of w (x - shift)(x - shift)' over the rows, (D, D)

    def second_moment(self) -> Tensor:
        """Sum of w xx' over the rows, (D, D)."""
        # With x = y + s, s the shift: sum w xx' = sum w yy' + (sum w y) s' + s (sum w y)' + (sum w) ss'.
        crossed = torch.outer(self.mass @ self.means, self.shift)
        return self.moment + crossed + crossed.T + self.mass.sum() * torch.outer(self.shift, self.shift)

    def covariance(self) -> Tensor:
        """Sum of w (x - m)(x - m)' over the rows, (D, D); m is their weighted mean."""
        mean = self.mass @ self.means
        return self.moment - torch.outer(mean, mean) / self.mass.sum()

    def within(self) -> Tensor:
        """Sum of w (x - m)(x - m)' over the rows, (D, D); m is the mean of the row's class."""
        # Of a class of mean m: sum w (x - m)(x - m)' = sum w xx' - (sum w) mm'.
        within = self.moment - _scatter(self.means, self.mass)
        if not within.trace() > _ALIKE * self.covariance().trace():
            raise SettingsError("the rows of each class are all alike; how a class varies cannot be seen from them")
        return within

    def between(self, weights: Tensor | None = None) -> Tensor:
        """Covariance of the class means, (D, D), each weighing ``weights`` (C,) or, left out, as much as its rows."""
        mass = self.mass if weights is None else weights
        mean = mass @ self.means / mass.sum()
        return _scatter(self.means - mean, mass)


def gather_statistics(inputs: Inputs, features: Tensor, classes: Classes, weights: Tensor | None = None) -> Statistics:
    """One pass over ``features`` (N, D), of any float dtype, as ``inputs`` makes them, by blocks of rows.

    Products are float32, sums over blocks float64. A row of class c weighs ``weights[c]`` (C,); left out, 1 / N.
    """
    if weights is None:
        weights = torch.full((classes.count,), 1 / classes.rows, dtype=torch.float64)
    shift = torch.zeros(0)
    sums = torch.zeros(classes.count, inputs.dim, dtype=torch.float64)
    moment = torch.zeros(inputs.dim, inputs.dim, dtype=torch.float64)
    for rows, of_row in _blocks_of_rows(inputs, features, classes):
        if not len(shift):
            shift = rows.mean(0)
        rows = rows - shift  # not in place: without any step, float32 features come as they are
        sums.index_add_(0, of_row, rows.double())
        moment += (rows * weights[of_row, None].float()).T @ rows
    if not moment.isfinite().all():
        raise SettingsError("the features to fit hold a NaN or an infinite number; leave those rows out")
    means = sums / classes.sizes[:, None]
    return Statistics(weights * classes.sizes, shift.double(), means, (moment + moment.T) / 2)


def ledoit_wolf(statistics: Statistics, inputs: Inputs, rows: TrainingRows) -> float:
    """The shrinkage in [0, 1] of ``statistics.within()`` (D, D), of ``rows`` of equal weight, towards (tr S / D) I.

    It is that of the residuals of class means (Ledoit and Wolf, Journal of Multivariate Analysis 88, 2004), as
    scikit-learn computes it from the residuals in memory.
    """
    # The shrinkage that brings (1 - s) S + s u I nearest to the true covariance, u = tr S / D, is noise / away in
    # squared Frobenius norms: away = |S - uI|^2 = |S|^2 - D u^2, and noise the expected |S - true|^2, estimated by
    # 1/N^2 sum |rr' - S|^2 = (1/N sum |r|^4 - |S|^2) / N over the residuals r: a second pass, for their fourth powers.
    fourth = 0.0
    for block, of_row in _blocks_of_rows(inputs, rows.features, rows.classes):
        residuals = block.double() - statistics.shift - statistics.means[of_row]
        fourth += float(residuals.square().sum(1).square().sum())
    within, count = statistics.within(), rows.classes.rows
    square = float(within.square().sum())
    level = float(within.trace()) / len(within)
    away = square - len(within) * level**2
    noise = (fourth / count - square) / count
    return 1.0 if away <= 0 else min(1.0, max(0.0, noise / away))


def _blocks_of_rows(inputs: Inputs, features: Tensor, classes: Classes) -> Iterator[tuple[Tensor, Tensor]]:
    for rows, of_row in zip(torch.split(features, _BLOCK), torch.split(classes.of_row, _BLOCK), strict=True):
        yield inputs(rows), of_row


def _scatter(means: Tensor, mass: Tensor) -> Tensor:
    return (means * mass[:, None]).T @ means


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """What a closed form is computed from; see :meth:`stages.training.closed_form.kinds.LinearMapConfig.fit`."""

    features: Tensor
    classes: Classes
    blocks: tuple[int, ...]
    seed: int

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, domains: Tensor, blocks: Sequence[int], seed: int) -> TrainingRows:
        """Rows of ``labels`` (N,) and ``domains`` (N,), integers. Raises ValueError where the shapes do not agree."""
        if features.ndim != 2 or features.shape[1] != sum(blocks) or len(features) < 2:
            raise SettingsError(
                f"features have shape {tuple(features.shape)}; a closed form takes two or more rows of "
                f"{' + '.join(map(str, blocks))} dimensions"
            )
        if not labels.shape == domains.shape == features.shape[:1]:
            raise SettingsError(
                f"{len(features):,} features have labels of shape {tuple(labels.shape)} and domains of shape "
                f"{tuple(domains.shape)}; each takes one integer a row"
            )
        return cls(features, Classes.of(labels, domains), tuple(blocks), seed)

    def observed(self, config: InputsConfig) -> Inputs:
        inputs = Inputs(config, self.blocks)
        inputs.observe(self.features)
        return inputs

    def statistics(self, inputs: Inputs, weights: Tensor | None = None) -> Statistics:
        return gather_statistics(inputs, self.features, self.classes, weights)


def descending(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (D,), largest first, and the eigenvectors (D, D) in columns, the largest number of each positive."""
    values, vectors = torch.linalg.eigh(symmetric)
    values, vectors = values.flip(0), vectors.flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return values, vectors * torch.where(largest < 0, -1.0, 1.0).to(vectors.dtype)


def check_dim(dim: int, most: int, why: str) -> None:
    """Raise ValueError where ``dim`` is more than ``most``, which ``why`` explains."""
    if dim > most:
        advice = f"set dim to {most:,} or less" if most > 0 else "there is nothing to fit"
        raise SettingsError(f"dim is {dim:,}, but {why} give at most {max(most, 0):,}: {advice}")


def check_within(classes: Classes, dim: int, shrinkage: float | None) -> None:
    """Raise ValueError where ``classes`` do not show how D = ``dim`` dimensions vary within, or too little unshrunk."""
    if classes.count == classes.rows:
        raise SettingsError(f"each of the {classes.count:,} classes has one row; how a class varies takes two or more")
    if shrinkage == 0 and (known := classes.rows - classes.count) < dim:
        raise SettingsError(
            f"{classes.rows:,} rows of {classes.count:,} classes vary within them in at most {known:,} of {dim:,} "
            'directions: shrink (kind = "within", "lda" or "discriminant", with shrinkage above 0), or take more rows'
        )
