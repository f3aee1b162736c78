"""PyTorch Metric Learning, where it is used: an optional library that supplies what a loss makes of its pairs.

Its losses list every pair, or every triplet, of what they are given. So they are given what was chosen: the entries
that they ask a matrix of distances for are looked up in a block of cosines.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cache.errors import MissingExtraError
from stages.training.pairs.block import Block
from stages.training.pairs.distance import distance_of


def library() -> Any:
    """Its module of losses. Raises MissingExtraError where it is not installed."""
    try:
        from pytorch_metric_learning import losses
    except ImportError as error:
        raise MissingExtraError("PyTorch Metric Learning", "pairs") from error
    return losses


class Distances:
    """The distances of a block, computed where they are asked for: ``distances[rows, columns]`` (T,)."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self.device, self.dtype = block.cosines.device, block.cosines.dtype

    def __getitem__(self, places: tuple[Tensor, Tensor]) -> Tensor:
        return distance_of(self._block.at(*places))


@lru_cache
def given() -> Any:
    """A distance of its kind that takes :class:`Distances` in place of embeddings and hands them on."""
    library()
    from pytorch_metric_learning.distances import LpDistance

    class Given(LpDistance):  # type: ignore[misc]
        def forward(self, query_emb: Distances, ref_emb: Distances) -> Distances:
            del ref_emb
            return query_emb

    return Given()


def losses_of(loss: Any, block: Block, chosen: tuple[Tensor, ...]) -> dict[str, Any]:
    """What ``loss``, made with the distance :func:`given`, makes of the ``chosen`` of a block: its parts by name."""
    distances = Distances(block)
    parts: dict[str, Any] = loss.compute_loss(distances, block.labels, chosen, distances, torch.empty(0))
    return parts
