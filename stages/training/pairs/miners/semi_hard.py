"""Semi-hard negatives: farther than the positive, but not by the margin (Schroff et al., FaceNet, CVPR 2015)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stages.training.pairs.block import Block, Pairs, Triplets, place_in_row
from stages.training.pairs.distance import distance_of

_PASSES = 16  # with more positives a row than this, one sort takes less time than a pass over the negatives for each


@dataclass(frozen=True)
class SemiHardConfig:
    """Every positive pair (a, p) with the nearest negative n of which d(a, p) < d(a, n) < d(a, p) + margin.

    A pair that has none is left out.

    Args:
        margin_dist: the margin, a distance; by default that of the loss.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["semi_hard"] = "semi_hard"
    margin_dist: float | None = None

    def __post_init__(self) -> None:
        check_own_margin(self.margin_dist)

    def pick(self, block: Block, margin_dist: float) -> Triplets:
        """The triplets of ``block``, for a loss of ``margin_dist``."""
        return semi_hard(block, block.positives, margin_dist if self.margin_dist is None else self.margin_dist)


def check_own_margin(margin_dist: float | None) -> None:
    """Raise ValueError where a miner's own margin is no distance."""
    if margin_dist is not None and not 0 < margin_dist <= 2:
        raise ValueError(f"margin_dist is a distance of embeddings of unit length, in (0, 2], got {margin_dist}")


def semi_hard(block: Block, pairs: Pairs, margin_dist: float) -> Triplets:
    """Each of ``pairs``, which stand row after row, with its nearest semi-hard negative, where it has one."""
    bound = block.cosines_of(*pairs)
    place = place_in_row(pairs.row)
    several = int(place.max()) + 1 if len(place) else 0
    find = _in_passes if several <= _PASSES else _by_sorting
    column, cosine = find(block.negative_cosines, pairs.row, place, bound, several)
    inside = (cosine > -torch.inf) & (distance_of(cosine) < distance_of(bound) + margin_dist)
    return Triplets(pairs.row[inside], pairs.column[inside], column[inside])


def _in_passes(negatives: Tensor, row: Tensor, place: Tensor, bound: Tensor, several: int) -> tuple[Tensor, Tensor]:
    """The column and the cosine (T,) of the highest of ``negatives`` (b, R) below ``bound`` (T,); -inf for none."""
    column, cosine = torch.empty_like(row), torch.empty_like(bound)
    for number in range(several):
        pairs = (place == number).nonzero()[:, 0]
        cosines = negatives if len(pairs) == len(negatives) else negatives[row[pairs]]
        best = torch.where(cosines < bound[pairs, None], cosines, -torch.inf).max(1)
        column[pairs], cosine[pairs] = best.indices, best.values
    return column, cosine


def _by_sorting(negatives: Tensor, row: Tensor, place: Tensor, bound: Tensor, several: int) -> tuple[Tensor, Tensor]:
    """As :func:`_in_passes`."""
    ordered = negatives.neg().sort(stable=True)
    bounds = bound.new_zeros(len(negatives), several)
    bounds[row, place] = -bound
    first = torch.searchsorted(ordered.values, bounds, right=True)[row, place]
    exists = first < negatives.shape[1]
    first = first.clamp(max=negatives.shape[1] - 1)
    return ordered.indices[row, first], torch.where(exists, -ordered.values[row, first], -torch.inf)
