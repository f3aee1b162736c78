"""Range loss: the widest spread of each class, and the nearest two class centres (Zhang et al., ICCV 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cache.errors import SettingsError
from stages.training.losses.angle import normalize
from stages.training.losses.settings import Scheduled, value_at
from stages.training.pairs.block import PairStatistics, place_in_row
from stages.training.pairs.distance import check_dist, distance_of
from stages.training.pairs.loss import PairLoss, PairLossConfig


@dataclass(frozen=True)
class RangeConfig(PairLossConfig):
    """Range loss: within + between, over the classes of a batch.

    ``within`` is the mean over the classes with two rows of the harmonic mean of the largest distances in the class;
    ``between`` is [margin - the least distance of two class centres]_+.

    Args:
        margin_dist: class centres are pushed to this distance.
        farthest: how many of a class's distances, the largest, count; k in the paper.
        within_weight: of the first part.
        between_weight: of the second.
    """

    kind: Literal["range"] = "range"
    margin_dist: Scheduled = 1.4
    farthest: int = 2
    within_weight: float = 1.0
    between_weight: float = 1.0

    def __post_init__(self) -> None:
        check_dist("margin_dist", self.margin_dist)
        if self.farthest < 1:
            raise SettingsError(f"farthest is how many distances of a class count, at least 1, got {self.farthest}")
        for name in ("within_weight", "between_weight"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise SettingsError(f"{name} is at least 0 and finite, got {value}")
        if self.within_weight == self.between_weight == 0:
            raise SettingsError("within_weight and between_weight are both 0: nothing is left of the loss")

    def build(self, _dim: int, _class_sizes: Tensor, _generator: torch.Generator) -> PairLoss:
        """See :class:`PairLossConfig`."""
        return _RangeLoss(self)


class _RangeLoss(PairLoss):
    """See :class:`RangeConfig`. Its distances are those of embeddings of unit length; the paper squares them."""

    def __init__(self, config: RangeConfig) -> None:
        super().__init__()
        self.config = config
        self.at(0.0)

    def at(self, share: float) -> None:
        self._margin = value_at(self.config.margin_dist, share)

    def forward(self, embeddings: Tensor, labels: Tensor, rows: Tensor | None = None) -> Tensor:
        unit = normalize(embeddings)
        rows = torch.arange(len(labels), device=labels.device) if rows is None else rows
        _, class_of_row, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
        within, widest = _within(unit, class_of_row, rows, self.config.farthest)
        between, nearest = self._between(unit, class_of_row, sizes)
        zero = float(len(widest) == 0) + float(between == 0)
        self._statistics += PairStatistics(2, zero, *_summed(widest), *_summed(nearest))
        return self.config.within_weight * within + self.config.between_weight * between

    def _between(self, unit: Tensor, class_of_row: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """The part between classes, and the cosine (1,) that goes with the least distance; (0,) for a single class."""
        if len(sizes) < 2:
            return unit.sum() * 0, unit.new_zeros(0)
        centres = unit.new_zeros(len(sizes), unit.shape[1]).index_add(0, class_of_row, unit) / sizes[:, None]
        with torch.no_grad():
            pairs = torch.triu_indices(len(sizes), len(sizes), 1, device=unit.device)
            one, other = pairs[:, torch.cdist(centres, centres)[pairs[0], pairs[1]].argmin()]
        least = torch.linalg.vector_norm(centres[one] - centres[other])
        return (self._margin - least).clamp(min=0), 1 - least.detach().square()[None] / 2


def _within(unit: Tensor, class_of_row: Tensor, rows: Tensor, farthest: int) -> tuple[Tensor, Tensor]:
    """The mean over classes of the harmonic means, and the cosines (n,) of the pairs that count, without gradient."""
    with torch.no_grad():
        pairs = (class_of_row[:, None] == class_of_row).triu(1).logical_and(rows[:, None] != rows).nonzero()
        classes, cosines = class_of_row[pairs[:, 0]], (unit @ unit.T)[pairs[:, 0], pairs[:, 1]]
        order = cosines.argsort(stable=True)
        order = order[classes[order].argsort(stable=True)]
        order = order[place_in_row(classes[order]) < farthest]
    if not len(order):
        return unit.sum() * 0, cosines[order]
    distances = distance_of((unit[pairs[order, 0]] * unit[pairs[order, 1]]).sum(1))
    _, place, counts = torch.unique(classes[order], return_inverse=True, return_counts=True)
    inverses = unit.new_zeros(len(counts)).index_add(0, place, 1 / distances)
    return (counts / inverses).mean(), cosines[order]


def _summed(cosines: Tensor) -> tuple[float, int]:
    return float(cosines.sum(dtype=torch.float64)), len(cosines)
