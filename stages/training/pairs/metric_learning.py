"""The adapter to PyTorch Metric Learning, an optional library that computes a loss from its chosen pairs.

Its losses index a matrix of distances with the chosen pairs or triplets. The adapter looks these entries up in a block
of cosines, so that no matrix of distances is made, and remembered embeddings need no code of their own.
"""

from __future__ import annotations

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


def of_distances(loss: Any) -> Any:
    """``loss`` of the library, which is then given :class:`Distances` in place of embeddings."""
    loss.distance.forward = lambda distances, _: distances
    return loss


def losses_of(loss: Any, block: Block, chosen: tuple[Tensor, ...]) -> dict[str, Any]:
    """The parts, by name, of a ``loss`` :func:`of_distances`, for the ``chosen`` pairs of a block."""
    distances = Distances(block)
    parts: dict[str, Any] = loss.compute_loss(distances, block.labels, chosen, distances, torch.empty(0))
    return parts
