"""Easy positives: a class may hold several looks, and a row need only be near one (Xuan et al., WACV 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from stages.training.pairs.block import Block, Pairs, Triplets
from stages.training.pairs.miners.hard import with_nearest_negatives
from stages.training.pairs.miners.semi_hard import check_own_margin, semi_hard


@dataclass(frozen=True)
class EasyPositivesConfig:
    """Every row with its nearest positive, and with one negative.

    Args:
        negatives: ``semi_hard`` takes the nearest that is farther than the positive, but not by the margin; ``hard``
            takes the nearest.
        margin_dist: the margin of semi-hard ones, a distance; by default that of the loss.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["easy_positives"] = "easy_positives"
    negatives: Literal["semi_hard", "hard"] = "semi_hard"
    margin_dist: float | None = None

    def __post_init__(self) -> None:
        if self.negatives not in ("semi_hard", "hard"):
            raise ValueError(f"negatives is semi_hard or hard, got {self.negatives!r}")
        check_own_margin(self.margin_dist)

    def pick(self, block: Block, margin_dist: float) -> Triplets:
        """The triplets of ``block``, for a loss of ``margin_dist``."""
        cosines, columns = block.padded_positives(-torch.inf)
        nearest = cosines.max(1)
        row = (nearest.values > -torch.inf).nonzero()[:, 0]
        places = Pairs(row, columns[row, nearest.indices[row]])
        if self.negatives == "hard":
            return with_nearest_negatives(block, places, 1)
        return semi_hard(block, places, margin_dist if self.margin_dist is None else self.margin_dist)
