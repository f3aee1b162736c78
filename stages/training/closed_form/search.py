"""The numbers of a discriminant, chosen by cross-validation over the training classes or rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch

from stages.training.closed_form.folds import Fold, drawn_rows, make_folds, reduced, row_folds, seeded_class_folds
from stages.training.closed_form.linear_map import TrainingRows
from stages.training.heads.inputs import Inputs, InputsConfig

# Directions kept while points are tried: the cost is that of their cube.
_LEAST, _MARGIN, _MOST = 512, 256, 1024


@dataclass(frozen=True)
class Point:
    """The four numbers of a discriminant: see ``DiscriminantHeadConfig``."""

    root: float
    shrinkage: float
    total: float
    power: float


@dataclass(frozen=True)
class Grid:
    """The values to choose each number from."""

    roots: tuple[float, ...]
    shrinkage: tuple[float, ...]
    total: tuple[float, ...]
    power: tuple[float, ...]

    def points(self) -> list[Point]:
        """Every point of the grid."""
        return [Point(*values) for values in product(self.roots, self.shrinkage, self.total, self.power)]

    def middle(self) -> Point:
        """The middle value of each number, the upper one of an even count."""
        return Point(*(values[len(values) // 2] for values in (self.roots, self.shrinkage, self.total, self.power)))


def search(
    rows: TrainingRows, inputs: InputsConfig, grid: Grid, dim: int, folds: int, *, whole_classes: bool = True
) -> tuple[Point, float | None]:
    """The point of ``grid`` of the highest score in ``folds`` folds of ``rows``, and that score.

    A fold holds out ``whole_classes``, or a part of the rows of every class.

    Shrinkage, total and power are tried in all combinations at the middle root; then the other roots; then, at the
    best root, the neighbours of the point. With fewer than four classes of two rows nothing can be held out: then it
    is the middle of the grid, and no score.

    It works on at most 20,000 rows, and in at most 1,024 of their leading directions (512, or 256 more than ``dim``).
    """
    if whole_classes:
        folds = min(folds, int((rows.classes.sizes > 1).sum()) // 2)
    else:
        folds = min(folds, int(rows.classes.sizes.max()) // 2)
    if folds < 2 or len(grid.points()) == 1:
        return grid.middle(), None
    tried = _Tried(rows, inputs, grid.power, dim, folds, whole_classes)
    middle = grid.middle().root
    best = tried.best(product([middle], grid.shrinkage, grid.total))
    best = tried.best((root, best.shrinkage, best.total) for root in grid.roots)
    if best.root != middle:
        place = grid.shrinkage.index(best.shrinkage)
        tried.best((best.root, near, best.total) for near in grid.shrinkage[max(place - 1, 0) : place + 2])
        best = tried.best((best.root, best.shrinkage, total) for total in grid.total)
    return best, tried.scores[best]


class _Tried:
    """Points and their scores, each worked out once."""

    def __init__(
        self,
        rows: TrainingRows,
        inputs: InputsConfig,
        powers: Sequence[float],
        dim: int,
        folds: int,
        whole_classes: bool,
    ) -> None:
        self.classes, self.features, self.seed = rows.classes, rows.features, rows.seed
        if (drawn := drawn_rows(rows.classes, rows.seed)) is not None:
            self.classes, self.features = rows.classes.take(drawn), rows.features[drawn]
        self.blocks = rows.blocks
        self.inputs = inputs
        self.powers = powers
        self.spanned = rows.classes.count - 1
        self.dim = dim
        if whole_classes:
            self.fold_of_row = seeded_class_folds(self.classes, folds, rows.seed)[self.classes.of_row]
        else:
            self.fold_of_row = row_folds(self.classes, folds, rows.seed)
        self.folds: dict[float, list[Fold]] = {}
        self.scores: dict[Point, float] = {}

    def best(self, tried: Iterable[tuple[float, float, float]]) -> Point:
        """Try (root, shrinkage, total) with every power; the best point of all so far, the first on a tie."""
        for root, shrinkage, total in tried:
            # Without total scatter nothing beyond the span of the class means has a strength but by the power 0.
            powers = [power for power in self.powers if power == 0 or total > 0 or self.dim <= self.spanned]
            if not powers or Point(root, shrinkage, total, powers[0]) in self.scores:
                continue
            found = torch.tensor([fold.scores(shrinkage, total, powers, self.dim) for fold in self._folds(root)])
            for power, score in zip(powers, found.mean(0).tolist(), strict=True):
                self.scores[Point(root, shrinkage, total, power)] = score
        return max(self.scores, key=lambda point: self.scores[point])

    def _folds(self, root: float) -> list[Fold]:
        if root not in self.folds:
            inputs = Inputs(replace(self.inputs, root=root), self.blocks)
            inputs.observe(self.features)
            kept = min(inputs.dim, _MOST, max(_LEAST, self.dim + _MARGIN))
            rows = reduced(inputs, self.features, self.classes, kept, self.seed)
            self.folds[root] = make_folds(rows, self.classes, self.fold_of_row, inputs.dim, self.seed)
        return self.folds[root]
