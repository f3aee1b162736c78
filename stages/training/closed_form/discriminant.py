"""The regularised discriminant, its few settings chosen by cross-validation over the training classes or rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from cache.errors import SettingsError
from stages.training.closed_form.cross_validation import Point, search
from stages.training.closed_form.linear_map import LinearMapConfig, TrainingRows, check_dim, check_within
from stages.training.closed_form.scatters import Scatters, strengths
from stages.training.heads.inputs import Inputs, InputsConfig


@dataclass(frozen=True)
class DiscriminantHeadConfig(LinearMapConfig):
    """Whitens what varies within classes, turns to where their means vary, keeps the first ``dim`` axes.

    S_w is the covariance within classes, S_b that of their means, S_t the second moment of all rows; every domain has
    the same weight in S_b and S_t. P = ((1 - g) S_w + g tr(S_w) / D I)^(-1/2); V and l are the eigenvectors and
    eigenvalues of (1 - b) P S_b P + b c P S_t P, c such that the traces agree; the map is
    x -> diag((l / l_1)^p) V'P x. Few classes span few directions: b fills in the rest.

    Each of the four settings lists the values to choose from; with one value each, nothing is chosen. They are chosen
    together, in ``folds`` folds: the rows of each fold are searched leave-one-out with the discriminant of the others,
    and the highest mMP@5 wins, the mean over folds of the mean over domains.

    >>> import torch
    >>> labels = torch.arange(8).repeat_interleave(6)
    >>> features = torch.eye(8)[labels] + 0.03 * torch.randn(48, 8, generator=torch.Generator().manual_seed(0))
    >>> chosen, score = DiscriminantHeadConfig(dim=4).choose(features, labels, torch.zeros_like(labels), [8], seed=0)
    >>> len(chosen.shrinkage), round(score, 1)
    (1, 1.0)

    Args:
        roots: a, exponents of the signed root, in place of ``inputs.root``.
        shrinkage: g, in (0, 1].
        total: b, in [0, 1].
        power: p, at least 0.
        folds: at least 2.
        over: what a fold holds out: whole ``classes``, since those that will be searched are new, or ``rows`` of every
            class. ``auto`` is rows where :func:`~stages.training.train_head` is given validation records of trained
            classes, and classes otherwise.
    """

    inputs: InputsConfig = InputsConfig(unit=True, center=True, rescale="unit")
    roots: tuple[float, ...] = (1.0, 0.7, 0.5)
    shrinkage: tuple[float, ...] = (0.03, 0.1, 0.3, 0.5, 0.8)
    total: tuple[float, ...] = (0.0, 0.3, 1.0)
    power: tuple[float, ...] = (0.0, 0.15, 0.3)
    folds: int = 3
    over: Literal["auto", "classes", "rows"] = "auto"
    kind: Literal["discriminant"] = "discriminant"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inputs.root != 1:
            raise SettingsError(
                f"a discriminant chooses among roots; set roots = [{self.inputs.root}], not inputs.root"
            )
        _check_values("roots", self.roots, lambda a: 0 < a <= 1, "in (0, 1]")
        _check_values("shrinkage", self.shrinkage, lambda g: 0 < g <= 1, "in (0, 1]")
        _check_values("total", self.total, lambda b: 0 <= b <= 1, "in [0, 1]")
        _check_values("power", self.power, lambda p: 0 <= p < math.inf, "of at least 0")
        if self.folds < 2:
            raise SettingsError(f"folds is a number of parts to hold out in turn, at least 2, got {self.folds}")

    def choose(
        self, features: Tensor, labels: Tensor, domains: Tensor, blocks: Sequence[int], seed: int
    ) -> tuple[DiscriminantHeadConfig, float | None]:
        """This configuration with the one value of each setting that :meth:`fit` would choose, and its mMP@5.

        Arguments as for :meth:`fit`. Where there is nothing to choose, or to choose by, there is no score.
        """
        point, score = self._choose(TrainingRows.of(features, labels, domains, blocks, seed))
        roots, shrinkage, total, power = ((value,) for value in point)
        return replace(self, roots=roots, shrinkage=shrinkage, total=total, power=power), score

    def _choose(self, rows: TrainingRows) -> tuple[Point, float | None]:
        dim, classes = sum(rows.blocks), rows.classes.count
        check_dim(self.dim, dim, f"features of {dim:,} dimensions")
        if classes < 2:
            raise SettingsError("a discriminant separates classes and takes two or more; the rows are of one")
        spanned = f"the means of {classes:,} classes, with total = 0 and power above 0,"
        if not any(self.total) and all(self.power):
            check_dim(self.dim, classes - 1, spanned)
        check_within(rows.classes, dim, min(self.shrinkage))
        grid = (self.roots, self.shrinkage, self.total, self.power)
        with torch.no_grad():
            point, score = search(rows, self.inputs, grid, self.dim, self.folds, whole_classes=self.over != "rows")
        if point.total == 0 and point.power > 0:
            check_dim(self.dim, classes - 1, spanned)
        return point, score

    def _map(self, rows: TrainingRows) -> tuple[Inputs, Tensor]:
        point, _ = self._choose(rows)
        inputs = rows.observed(replace(self.inputs, root=point.root))
        # float64: in float32 the order of close axes, and so which are the first, moves similarities by up to 0.01.
        scatters = Scatters.of(inputs, rows.features, rows.classes, size=inputs.dim, dtype=torch.float64)
        axes, values = scatters.axes(point.shrinkage, point.total)
        return inputs, (axes[:, : self.dim] * strengths(values[: self.dim], point.power)).T


def _check_values(name: str, values: tuple[float, ...], good: Callable[[float], bool], which: str) -> None:
    if not values or len(set(values)) < len(values) or not all(map(good, values)):
        raise SettingsError(f"{name} holds one or more values {which} to choose from, each once, got {list(values)}")
