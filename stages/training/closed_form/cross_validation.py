"""The discriminant: scatters, axes, and settings chosen by cross-validation over training classes or rows of each.

The discriminants of one fold share an eigendecomposition of the covariance within classes (:class:`Scatters`), so a
point of the grid costs one eigendecomposition of the scatter between, and a power none at all.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cache.errors import SettingsError
from stages.training.closed_form.kinds import DiscriminantHeadConfig
from stages.training.closed_form.statistics import (
    Classes,
    TrainingRows,
    check_dim,
    check_within,
    descending,
    gather_statistics,
)
from stages.training.heads.kinds import InputsConfig
from stages.training.heads.networks import Inputs
from stages.training.losses.angle import normalize
from stages.training.rows.validation import mmp5

_CLASSES = 4_000  # with more, as many are drawn
_ROWS = 20_000  # with more, the largest classes give only as many rows as fit
_QUERIES = 2_000  # a fold; all its rows are the gallery

# A direction in which no class mean varies comes after the others, in the order of the total scatter.
_REST = 1e-3

# Directions that points are tried in: the time is in proportion to their cube.
_LEAST, _MARGIN, _MOST = 512, 256, 1024


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
            statistics = gather_statistics(inputs, features, classes, classes.weights(classes.sizes))
        values, vectors = descending(within.to(dtype))
        self.vectors = vectors  # eigenvectors of S_w, the covariance within classes, in columns (D, D)
        self.values = values.clamp(min=0)  # its eigenvalues (D,), largest first
        self.level = float(within.trace()) / size  # their mean over all dimensions of the feature
        self.between, self.total = (  # S_b, the covariance of class means, and S_t, the second moment, in that basis
            vectors.T @ scatter.to(dtype) @ vectors
            for scatter in (statistics.between(classes.weights(torch.ones(classes.count))), statistics.second_moment())
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


class Point(NamedTuple):
    """One setting of a discriminant: see ``DiscriminantHeadConfig``."""

    root: float
    shrinkage: float
    total: float
    power: float


def choose(config: DiscriminantHeadConfig, rows: TrainingRows) -> tuple[Point, float | None]:
    """The point of the grid of ``config`` of the highest score in folds of ``rows``, and that score.

    Shrinkage, total and power are tried in all combinations at the middle root; then the other roots; then, at the
    best root, the neighbours of the point. With fewer than four classes of two rows nothing can be held out: then it
    is the middle of the grid, the upper one of an even count of values, and no score. (A label is one class here, in
    however many domains.)

    It works on at most 20,000 rows, and in at most 1,024 of their leading directions (512, or 256 more than ``dim``).
    """
    dim, classes = sum(rows.blocks), rows.classes
    check_dim(config.dim, dim, f"features of {dim:,} dimensions")
    if classes.count < 2:
        raise SettingsError("a discriminant separates classes and takes two or more; the rows are of one")
    spanned = f"the means of {classes.count:,} classes, with total = 0 and power above 0,"
    if not any(config.total) and all(config.power):
        check_dim(config.dim, classes.count - 1, spanned)
    check_within(classes, dim, min(config.shrinkage))
    whole = config.over != "rows"
    held = len(set(classes.labels[classes.sizes > 1].tolist())) if whole else int(classes.sizes.max())
    folds = min(config.folds, held // 2)
    grid = config.roots, config.shrinkage, config.total, config.power
    best, score = Point(*(values[len(values) // 2] for values in grid)), None
    if folds >= 2 and any(len(values) > 1 for values in grid):
        trials, middle = _Trials(config, rows, folds), best.root
        best = trials.best(product([middle], config.shrinkage, config.total))
        best = trials.best((root, best.shrinkage, best.total) for root in config.roots)
        if best.root != middle:
            place = config.shrinkage.index(best.shrinkage)
            trials.best((best.root, near, best.total) for near in config.shrinkage[max(place - 1, 0) : place + 2])
            best = trials.best((best.root, best.shrinkage, total) for total in config.total)
        score = trials.scores[best]
    if best.total == 0 and best.power > 0:
        check_dim(config.dim, classes.count - 1, spanned)
    return best, score


class _Trials:
    """The scores of the points tried so far; none is computed twice."""

    def __init__(self, config: DiscriminantHeadConfig, rows: TrainingRows, folds: int) -> None:
        self.config, self.spanned = config, rows.classes.count - 1
        if (drawn := drawn_rows(rows.classes, rows.seed)) is not None:
            rows = replace(rows, features=rows.features[drawn], classes=rows.classes.take(drawn))
        self.rows = rows
        if config.over == "rows":
            self.fold_of_row = row_folds(rows.classes, folds, rows.seed)
        else:
            self.fold_of_row = fold_of_class(rows.classes, folds, rows.seed)[rows.classes.of_row]
        self.folds: dict[float, list[_Fold]] = {}
        self.scores: dict[Point, float] = {}

    def best(self, tried: Iterable[tuple[float, float, float]]) -> Point:
        """Try (root, shrinkage, total) with every power; the best point of all so far, the first on a tie."""
        dim = self.config.dim
        for root, shrinkage, total in tried:
            # Without total scatter nothing beyond the span of the class means has a strength but by the power 0.
            powers = [power for power in self.config.power if power == 0 or total > 0 or dim <= self.spanned]
            if not powers or Point(root, shrinkage, total, powers[0]) in self.scores:
                continue
            if root not in self.folds:
                self.folds[root] = self._make_folds(root)
            scores = torch.tensor([fold.scores(shrinkage, total, powers, dim) for fold in self.folds[root]])
            for power, score in zip(powers, scores.mean(0).tolist(), strict=True):
                self.scores[Point(root, shrinkage, total, power)] = score
        return max(self.scores, key=lambda point: self.scores[point])

    def _make_folds(self, root: float) -> list[_Fold]:
        rows, inputs = self.rows, self.rows.observed(replace(self.config.inputs, root=root))
        directions = min(inputs.dim, _MOST, max(_LEAST, self.config.dim + _MARGIN))
        fewer = reduced(inputs, rows.features, rows.classes, directions, rows.seed)
        parts = [self.fold_of_row == fold for fold in range(int(self.fold_of_row.max()) + 1)]
        return [_Fold(fewer, rows.classes, held, inputs.dim, rows.seed) for held in parts]


class _Fold:
    """Scatters of ``rows`` (n, R), reduced from ``size`` dimensions, that are not ``held`` out, and those that are."""

    def __init__(self, rows: Tensor, classes: Classes, held: Tensor, size: int, seed: int) -> None:
        learned, self.classes = classes.take((~held).nonzero()[:, 0]), classes.take(held.nonzero()[:, 0])
        plain = Inputs(InputsConfig(center=False, rescale="none"), [rows.shape[1]])
        self.scatters = Scatters(plain, rows[~held], learned, size=size, dtype=torch.float32)
        self.rows = rows[held]
        order = np.random.default_rng(seed).permutation(self.classes.rows)
        self.queries = torch.from_numpy(order[:_QUERIES]).sort().values

    def scores(self, shrinkage: float, total: float, powers: list[float], dim: int) -> list[float]:
        """For each of ``powers`` the mMP@5 of the held-out rows, leave-one-out: the mean of the domains' means."""
        axes, values = self.scatters.axes(shrinkage, total)
        mapped = self.rows @ axes[:, :dim]
        labels, queries = self.classes.of_row, self.queries
        domains = self.classes.domains[labels[queries]]
        scores = []
        for power in powers:
            embeddings = normalize(mapped * strengths(values[:dim], power))
            precision = mmp5(embeddings[queries], embeddings, labels[queries], labels, queries)
            means = torch.stack([precision[domains == domain].nanmean() for domain in torch.unique(domains)])
            scores.append(float(means.nanmean()))
        return scores


def drawn_rows(classes: Classes, seed: int) -> Tensor | None:
    """Positions (n,) of the rows that folds are made of: at most 20,000 of 4,000 classes; None for all rows."""
    if classes.rows <= _ROWS:
        return None
    rng = np.random.default_rng(seed)
    # classes of one row, which cannot be searched for, are drawn last
    sampled = torch.zeros(classes.count, dtype=torch.bool)
    shuffled = torch.from_numpy(rng.permutation(classes.count))
    sampled[shuffled[(classes.sizes[shuffled] == 1).long().argsort(stable=True)][:_CLASSES]] = True
    sizes = classes.sizes[sampled]
    each = 1 + bisect_right(range(2, _ROWS), _ROWS, key=lambda most: int(sizes.clamp(max=most).sum()))
    order, place = _shuffled_within(classes, rng)
    return order[sampled[classes.of_row[order]] & (place < max(each, 2))].sort().values


def fold_of_class(classes: Classes, folds: int, seed: int) -> Tensor:
    """The fold (C,) of each class, in [0, folds): every domain's classes are spread over all, as evenly as they go.

    A label is in one fold in all its domains, dealt out with those of the first domain where it has two rows.
    """
    sizes, domains = classes.sizes.numpy(), classes.domains.numpy()
    order = np.random.default_rng(seed).permutation(classes.count)
    # Those that can be searched for, of two rows or more, are dealt out first.
    order = order[np.lexsort((domains[order], sizes[order] == 1))]
    _, first, label = np.unique(classes.labels.numpy()[order], return_index=True, return_inverse=True)
    fold = np.empty(classes.count, np.int64)
    fold[order] = first.argsort().argsort()[label] % folds
    return torch.from_numpy(fold)


def row_folds(classes: Classes, folds: int, seed: int) -> Tensor:
    """The fold (n,) of each row, in [0, folds): the rows of every class are spread over all."""
    order, place = _shuffled_within(classes, np.random.default_rng(seed))
    fold = torch.empty(classes.rows, dtype=torch.int64)
    fold[order] = place % folds
    return fold


def _shuffled_within(classes: Classes, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """The rows (n,) class after class, shuffled within each, and the place (n,) of each within its class, from 0."""
    order = torch.from_numpy(rng.permutation(classes.rows))
    order = order[classes.of_row[order].argsort(stable=True)]
    starts = classes.sizes.cumsum(0) - classes.sizes
    return order, torch.arange(classes.rows) - starts[classes.of_row[order]]


def reduced(inputs: Inputs, features: Tensor, classes: Classes, dim: int, seed: int) -> Tensor:
    """``features`` (n, D) as ``inputs`` makes them, float32, in their leading ``dim`` directions if D is more.

    The directions come from two rounds of subspace iteration, since an eigendecomposition costs the cube of D: with M
    (D, D) the second moment, each round takes the basis Q (D, dim) to the orthonormal basis of MQ, which multiplies the
    share of direction i by its eigenvalue, so that the leading ones remain.
    """
    blocks = (inputs(block) for block in torch.split(features, 4096))
    if dim >= inputs.dim:
        return torch.cat([*blocks])
    moment = gather_statistics(inputs, features, classes).second_moment().float()
    start = torch.randn(inputs.dim, dim, generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(moment @ start).Q
    for _ in range(2):
        basis = torch.linalg.qr(moment @ basis).Q
    return torch.cat([block @ basis for block in blocks])
