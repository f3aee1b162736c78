"""Supervised contrastive loss: a softmax over a row's pairs (Khosla et al., SupCon, NeurIPS 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from stages.training.pairs.block import Block, found_in_all
from stages.training.pairs.loss import RememberingConfig
from stages.training.pairs.metric_learning import library
from stages.training.pairs.rule import PairRule, Sums


@dataclass(frozen=True)
class SupConConfig(RememberingConfig):
    """SupCon: of each row the mean over its positives of -log softmax(scale * cosines); the mean over such rows.

    Args:
        scale: the factor on the cosines, one over the temperature.
    """

    kind: Literal["supcon"] = "supcon"
    scale: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale is a factor on the cosines, above 0 and finite, got {self.scale}")

    def rule(self, classes: int) -> PairRule:
        """See :class:`RememberingConfig`."""
        del classes
        return SupCon(self)


class SupCon(PairRule):
    """A row's loss by all its pairs."""

    def __init__(self, config: SupConConfig) -> None:
        super().__init__()
        self._loss: Any = library().SupConLoss(temperature=1 / config.scale)

    def numbers(self, columns: int) -> int:
        """See :class:`PairRule`."""
        return 2 * columns

    def sums(self, block: Block) -> Sums:
        """See :class:`PairRule`."""
        # what each of the library's losses defines: here it is given masks, where its own way lists all pairs first
        same, other = (mask.to(block.cosines.dtype) for mask in (block.same, block.other))
        losses = self._loss._compute_loss(block.cosines, same, other)["loss"]["losses"]
        if not isinstance(losses, int):
            count = (losses > 0).sum()
            found = found_in_all(block, len(losses), len(losses) - float(count))
            return Sums(losses.sum()[None], count[None].to(losses.dtype), found)
        nothing = block.cosines.new_zeros(1)  # no row has a positive, or none a negative
        return Sums(nothing, nothing, found_in_all(block, len(block.cosines), len(block.cosines)))
