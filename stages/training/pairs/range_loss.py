"""Range loss: the widest spread of each class, and the nearest two class centres (Zhang et al., ICCV 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.training.losses.angle import normalize
from stages.training.losses.settings import value_at
from stages.training.pairs.block import distance_of, place_in_row, statistics_of
from stages.training.pairs.kinds import RangeConfig
from stages.training.pairs.loss import PairLoss


class RangeLoss(PairLoss):
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
        self._statistics += statistics_of(2, zero, widest, nearest)
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
