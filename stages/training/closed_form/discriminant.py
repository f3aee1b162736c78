"""The regularised discriminant, its few settings chosen by cross-validation over the training classes or rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cache.errors import SettingsError
from stages.training.closed_form.cross_validation import Point, search
from stages.training.closed_form.kinds import DiscriminantHeadConfig
from stages.training.closed_form.scatters import Scatters, strengths
from stages.training.closed_form.statistics import TrainingRows, check_dim, check_within
from stages.training.heads.inputs import Inputs


def choose(
    config: DiscriminantHeadConfig,
    features: Tensor,
    labels: Tensor,
    domains: Tensor,
    blocks: Sequence[int],
    seed: int,
) -> tuple[DiscriminantHeadConfig, float | None]:
    """``config`` with the one value of each setting that fitting it would choose, and its mMP@5.

    Arguments as for ``fit``. Where there is nothing to choose, or to choose by, there is no score.

    >>> labels = torch.arange(8).repeat_interleave(6)
    >>> features = torch.eye(8)[labels] + 0.03 * torch.randn(48, 8, generator=torch.Generator().manual_seed(0))
    >>> config = DiscriminantHeadConfig(dim=4)
    >>> chosen, score = choose(config, features, labels, torch.zeros_like(labels), [8], seed=0)
    >>> len(chosen.shrinkage), round(score, 1)
    (1, 1.0)
    """
    point, score = _choose(config, TrainingRows.of(features, labels, domains, blocks, seed))
    roots, shrinkage, total, power = ((value,) for value in point)
    return replace(config, roots=roots, shrinkage=shrinkage, total=total, power=power), score


def _choose(config: DiscriminantHeadConfig, rows: TrainingRows) -> tuple[Point, float | None]:
    dim, classes = sum(rows.blocks), rows.classes.count
    check_dim(config.dim, dim, f"features of {dim:,} dimensions")
    if classes < 2:
        raise SettingsError("a discriminant separates classes and takes two or more; the rows are of one")
    spanned = f"the means of {classes:,} classes, with total = 0 and power above 0,"
    if not any(config.total) and all(config.power):
        check_dim(config.dim, classes - 1, spanned)
    check_within(rows.classes, dim, min(config.shrinkage))
    grid = (config.roots, config.shrinkage, config.total, config.power)
    with torch.no_grad():
        point, score = search(rows, config.inputs, grid, config.dim, config.folds, whole_classes=config.over != "rows")
    if point.total == 0 and point.power > 0:
        check_dim(config.dim, classes - 1, spanned)
    return point, score


def discriminant_map(config: DiscriminantHeadConfig, rows: TrainingRows) -> tuple[Inputs, Tensor]:
    """See :class:`DiscriminantHeadConfig`."""
    point, _ = _choose(config, rows)
    inputs = rows.observed(replace(config.inputs, root=point.root))
    # float64: in float32 the order of close axes, and so which are the first, moves similarities by up to 0.01.
    scatters = Scatters.of(inputs, rows.features, rows.classes, size=inputs.dim, dtype=torch.float64)
    axes, values = scatters.axes(point.shrinkage, point.total)
    return inputs, (axes[:, : config.dim] * strengths(values[: config.dim], point.power)).T
