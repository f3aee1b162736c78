"""Multi-similarity loss: pairs weighed by how they compare with the others of a row (Wang et al., CVPR 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from stages.training.pairs.block import Block, Places, found_in
from stages.training.pairs.loss import RememberingConfig
from stages.training.pairs.metric_learning import library
from stages.training.pairs.miners.semi_hard import turns
from stages.training.pairs.rule import PairRule, Sums

_TRUE = torch.tensor(True)


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
            positives, negatives = self._chosen(block)
        cosines, same, other = side_by_side(block, positives, negatives)
        # what each of the library's losses defines: here it is given masks, where its own way lists all pairs first
        losses = self._loss._compute_loss(cosines, same, other)["loss"]["losses"]
        found = found_in(losses, float((losses == 0).sum()), block.look(*positives), block.look(*negatives))
        return Sums(losses.sum()[None], losses.new_tensor([len(losses)]), found)

    def _chosen(self, block: Block) -> tuple[Places, Places]:
        """Which positives and which negatives are looked at."""
        slack, (row, column) = self.config.slack_cos, block.positives
        cosines = block.look(row, column)
        farthest = cosines.new_full((len(block.cosines),), torch.inf).scatter_reduce(0, row, cosines, "amin")
        near = cosines - slack < block.of_negatives.amax(1)[row]
        negatives = (block.of_negatives > (farthest - slack)[:, None]).nonzero(as_tuple=True)
        return Places(row[near], column[near]), Places(*negatives)


def side_by_side(block: Block, positives: Places, negatives: Places) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row the chosen pairs alone: cosines (b, n), and which of them are positives and negatives.

    n is the most that a row has; what is left over is neither. Where that is not much less than all columns, all are
    given.
    """
    rows = len(block.cosines)
    of_positives, of_negatives = (torch.bincount(of.row, minlength=rows) for of in (positives, negatives))
    width = int((of_positives + of_negatives).max())
    if 2 * width > block.cosines.shape[1]:
        masks = [torch.zeros_like(block.alike).index_put_(tuple(of), _TRUE) for of in (positives, negatives)]
        return block.every, masks[0], masks[1]
    row, column = (torch.cat(parts) for parts in zip(positives, negatives, strict=True))
    order = row.argsort(stable=True)  # a row's positives before its negatives
    row, column = row[order], column[order]
    cosines = block.cosines.new_zeros(rows, width).index_put((row, turns(row)), block.at(row, column))
    places = torch.arange(width)
    same = places < of_positives[:, None]
    return cosines, same, ~same & (places < (of_positives + of_negatives)[:, None])
