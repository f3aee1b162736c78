"""The adapter to PyTorch Metric Learning, an optional library that computes a loss from its chosen pairs.

Its losses index a matrix of distances with the chosen pairs or triplets. The adapter looks these entries up in a block
of cosines, so that no matrix of distances is made, and remembered embeddings need no code of their own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cache.errors import MissingExtraError
from stages.training.pairs.block import Block, distance_of


def library() -> Any:
    """The library's module of losses. Raises MissingExtraError where it is not installed."""
    try:
        from pytorch_metric_learning import losses
    except ImportError as error:
        raise MissingExtraError("PyTorch Metric Learning", "pairs") from error
    return losses


class Distances:
    """The distances of a block, computed where they are indexed: ``distances[rows, columns]`` (T,)."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self.device, self.dtype = block.cosines.device, block.cosines.dtype

    def __getitem__(self, places: tuple[Tensor, Tensor]) -> Tensor:
        return distance_of(self._block.differentiable(*places))


@lru_cache
def passthrough_distance() -> Any:
    """A distance of the library's kind that takes :class:`Distances` in place of embeddings and returns them."""
    library()
    from pytorch_metric_learning.distances import LpDistance

    class Given(LpDistance):  # type: ignore[misc]
        def forward(self, query_emb: Distances, ref_emb: Distances) -> Distances:
            del ref_emb
            return query_emb

    return Given()


def losses_of(loss: Any, block: Block, chosen: tuple[Tensor, ...]) -> dict[str, Any]:
    """The parts, by name, of a ``loss`` made with :func:`passthrough_distance`, for the ``chosen`` pairs of a block."""
    distances = Distances(block)
    parts: dict[str, Any] = loss.compute_loss(distances, block.labels, chosen, distances, torch.empty(0))
    return parts
