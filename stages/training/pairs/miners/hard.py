"""Hard positives and hard negatives: what is farthest of its own class, and nearest of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from stages.training.pairs.block import Block, Pairs, Triplets


@dataclass(frozen=True)
class HardConfig:
    """Every row with its farthest positives and its nearest negatives, each with each (Hermans et al., 2017).

    Args:
        positives: how many of the farthest; 0 takes all, so that only negatives are hard.
        negatives: how many of the nearest.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["hard"] = "hard"
    positives: int = 1
    negatives: int = 1

    def __post_init__(self) -> None:
        if self.positives < 0:
            raise ValueError(f"positives is how many of the farthest, at least 1, or 0 for all, got {self.positives}")
        if self.negatives < 1:
            raise ValueError(f"negatives is how many of the nearest, at least 1, got {self.negatives}")

    def pick(self, block: Block, margin_dist: float) -> Triplets:
        """The triplets of ``block``; the margin of the loss does not matter."""
        del margin_dist
        places = block.positives if self.positives == 0 else farthest_positives(block, self.positives)
        return with_nearest_negatives(block, places, self.negatives)


def farthest_positives(block: Block, count: int) -> Pairs:
    """The ``count`` farthest positives of each row, or as many as it has."""
    cosines, columns = block.padded_positives(torch.inf)
    farthest = cosines.topk(min(count, cosines.shape[1]), largest=False)
    row, place = (farthest.values < torch.inf).nonzero(as_tuple=True)
    return Pairs(row, columns[row, farthest.indices[row, place]])


def with_nearest_negatives(block: Block, places: Pairs, count: int) -> Triplets:
    """Each of ``places`` with each of the ``count`` nearest negatives of its row, or as many as there are."""
    if count == 1:  # a maximum takes a third of the time of topk
        cosines, columns = (part[:, None] for part in block.negative_cosines.max(1))
    else:
        cosines, columns = block.negative_cosines.topk(min(count, block.cosines.shape[1]))
    pair, place = (cosines > -torch.inf)[places.row].nonzero(as_tuple=True)
    row = places.row[pair]
    return Triplets(row, places.column[pair], columns[row, place])
