"""Multi-similarity loss: pairs weighed by how they compare with the others of a row (Wang et al., CVPR 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from stages.training.pairs.block import Block, found_in
from stages.training.pairs.loss import RememberingConfig
from stages.training.pairs.metric_learning import library
from stages.training.pairs.miners.semi_hard import turns
from stages.training.pairs.rule import PairRule, Sums


@dataclass(frozen=True)
class MultiSimilarityConfig(RememberingConfig):
    """Multi-similarity loss: the mean over the rows of

    log(1 + sum_p exp(-a (c_p - t))) / a + log(1 + sum_n exp(b (c_n - t))) / b, over cosines with positives and
    negatives.

    Args:
        positive_scale: a.
        negative_scale: b.
        threshold_cos: t, a cosine.
        slack_cos: a negative counts where its cosine plus this is above that of the farthest positive of the row, a
            positive where its cosine minus this is below that of the nearest negative; with 2 all pairs do.
    """  # noqa: D415  # a formula

    kind: Literal["multi_similarity"] = "multi_similarity"
    positive_scale: float = 2.0
    negative_scale: float = 50.0
    threshold_cos: float = 0.5
    slack_cos: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("positive_scale", "negative_scale"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise ValueError(f"{name} is a factor on cosines, above 0 and finite, got {value}")
        if not -1 <= self.threshold_cos <= 1:
            raise ValueError(f"threshold_cos is a cosine, in [-1, 1], got {self.threshold_cos}")
        if not 0 <= self.slack_cos <= 2:
            raise ValueError(f"slack_cos is a difference of cosines in [0, 2], got {self.slack_cos}")

    def rule(self, classes: int) -> PairRule:
        """See :class:`RememberingConfig`."""
        del classes
        return MultiSimilarity(self)


class MultiSimilarity(PairRule):
    """A row's loss by its positives and negatives."""

    def __init__(self, config: MultiSimilarityConfig) -> None:
        super().__init__()
        self.config = config
        self._loss: Any = library().MultiSimilarityLoss(
            alpha=config.positive_scale, beta=config.negative_scale, base=config.threshold_cos
        )

    def sums(self, block: Block) -> Sums:
        """See :class:`PairRule`."""
        with torch.no_grad():
            same, other = self._chosen(block)
        narrow, same, other = narrowed(block, same, other)
        # what each of the library's losses defines: here it is given masks, where its own way lists all pairs first
        losses = self._loss._compute_loss(narrow, same, other)["loss"]["losses"]
        zero = float((losses == 0).sum())
        found = found_in(losses, zero, narrow.detach()[same], narrow.detach()[other])
        return Sums(losses.sum()[None], losses.new_tensor([len(losses)]), found)

    def _chosen(self, block: Block) -> tuple[Tensor, Tensor]:
        """Which are looked at (b, R): positives, and negatives."""
        slack, cosines = self.config.slack_cos, block.cosines.detach()
        farthest = block.of_positives.nan_to_num(torch.inf).amin(1, keepdim=True)
        nearest = block.of_negatives.amax(1, keepdim=True)
        return block.same & (cosines - slack < nearest), block.other & (cosines + slack > farthest)


def narrowed(block: Block, same: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row the chosen columns alone, side by side: cosines (b, n), and which are positives and negatives.

    n is the most that a row has. What stands in the places that are left over is neither.
    """
    row, column = (same | other).nonzero(as_tuple=True)
    turn = turns(row)
    width = int(turn.max()) + 1 if len(turn) else 1
    if 2 * width > block.cosines.shape[1]:
        return block.cosines, same, other
    places = torch.zeros(len(block.cosines), width, dtype=torch.int64)
    places[row, turn] = column
    taken = torch.zeros_like(places, dtype=torch.bool)
    taken[row, turn] = True
    return block.cosines.gather(1, places), same.gather(1, places) & taken, other.gather(1, places) & taken
