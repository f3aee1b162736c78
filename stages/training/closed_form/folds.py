"""Training classes, or rows of every class, held out in turn, and how well a discriminant of the others finds them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.ranking import deal_classes
from stages.training.closed_form.classes import Classes
from stages.training.closed_form.scatters import Scatters, strengths
from stages.training.closed_form.statistics import gather_statistics
from stages.training.heads.inputs import Inputs, InputsConfig
from stages.training.losses.kernel import unit_length
from stages.training.validation import mmp5

_CLASSES = 4_000  # with more, as many are drawn
_ROWS = 20_000  # with more, the largest classes give only as many rows as fit
_QUERIES = 2_000  # a fold; all its rows are the gallery
_AS_THEY_ARE = InputsConfig(center=False, rescale="none")


@dataclass(frozen=True, eq=False)
class Fold:
    """Scatters of the rows that are not held out, and the ``rows`` (n, R) that are."""

    scatters: Scatters
    rows: Tensor
    classes: Classes
    queries: Tensor

    def scores(self, shrinkage: float, total: float, powers: Sequence[float], dim: int) -> list[float]:
        """For each of ``powers`` the mMP@5 of the held-out rows, leave-one-out: the mean of the domains' means."""
        axes, values = self.scatters.axes(shrinkage, total)
        mapped = self.rows @ axes[:, :dim]
        found = []
        for power in powers:
            embeddings = unit_length(mapped * strengths(values[:dim], power))
            labels = self.classes.of_row
            queries = self.queries
            precision = mmp5(embeddings[queries], embeddings, labels[queries], labels, queries)
            domains = self.classes.domains[labels[queries]]
            means = torch.stack([precision[domains == domain].nanmean() for domain in torch.unique(domains)])
            found.append(float(means.nanmean()))
        return found


def drawn_rows(classes: Classes, seed: int) -> Tensor | None:
    """Positions (n,) of the rows that folds are made of: at most 20,000 of 4,000 classes; None for all rows.

    Classes of one row, which cannot be searched for, are drawn last.
    """
    if classes.rows <= _ROWS:
        return None
    rng = np.random.default_rng(seed)
    kept = torch.zeros(classes.count, dtype=torch.bool)
    shuffled = torch.from_numpy(rng.permutation(classes.count))
    kept[shuffled[(classes.sizes[shuffled] == 1).long().argsort(stable=True)][:_CLASSES]] = True
    sizes = classes.sizes[kept]
    each = 1 + bisect_right(range(2, _ROWS), _ROWS, key=lambda most: int(sizes.clamp(max=most).sum()))
    order = torch.from_numpy(rng.permutation(classes.rows))
    order = order[classes.of_row[order].argsort(stable=True)]
    place = torch.arange(classes.rows) - (classes.sizes.cumsum(0) - classes.sizes)[classes.of_row[order]]
    return order[kept[classes.of_row[order]] & (place < max(each, 2))].sort().values


def seeded_class_folds(classes: Classes, folds: int, seed: int) -> Tensor:
    """The fold (C,) of each class, in [0, folds): every domain's classes are spread over all, as evenly as they go.

    Classes that can be searched for, of two rows or more, are dealt out first, so that each fold gets its share.
    """
    order = np.random.default_rng(seed).permutation(classes.count)
    return torch.from_numpy(deal_classes(classes.sizes.numpy(), classes.domains.numpy(), order, folds))


def row_folds(classes: Classes, folds: int, seed: int) -> Tensor:
    """The fold (n,) of each row, in [0, folds): the rows of every class are spread over all."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(classes.rows))
    order = order[classes.of_row[order].argsort(stable=True)]
    fold = torch.empty(classes.rows, dtype=torch.int64)
    fold[order] = (
        torch.arange(classes.rows) - (classes.sizes.cumsum(0) - classes.sizes)[classes.of_row[order]]
    ) % folds
    return fold


def reduced(inputs: Inputs, features: Tensor, classes: Classes, dim: int, seed: int) -> Tensor:
    """``features`` (n, D) as ``inputs`` makes them, float32, in their leading ``dim`` directions if D is more.

    The directions come from two rounds of subspace iteration, since an eigendecomposition costs the cube of D.
    """
    if dim >= inputs.dim:
        return torch.cat([inputs(block) for block in torch.split(features, 4096)])
    moment = gather_statistics(inputs, features, classes).second_moment().float()
    start = torch.randn(inputs.dim, dim, generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(moment @ start).Q
    for _ in range(2):
        basis = torch.linalg.qr(moment @ basis).Q
    return torch.cat([inputs(block) @ basis for block in torch.split(features, 4096)])


def make_folds(rows: Tensor, classes: Classes, fold_of_row: Tensor, size: int, seed: int) -> list[Fold]:
    """The folds of ``rows`` (n, R), which were reduced from ``size`` numbers each."""
    made = []
    for fold in range(int(fold_of_row.max()) + 1):
        held = fold_of_row == fold
        learned, apart = classes.take((~held).nonzero()[:, 0]), classes.take(held.nonzero()[:, 0])
        plain = Inputs(_AS_THEY_ARE, [rows.shape[1]])
        scatters = Scatters.of(plain, rows[~held], learned, size=size, dtype=torch.float32)
        queries = torch.from_numpy(np.random.default_rng(seed).permutation(apart.rows)[:_QUERIES]).sort().values
        made.append(Fold(scatters, rows[held], apart, queries))
    return made
