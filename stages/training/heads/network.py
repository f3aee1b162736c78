"""The network of every head: the steps before the map, the map of its kind, then unit length."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.training.heads.inputs import Inputs, Rows
from stages.training.losses.angle import normalize


class HeadNetwork(nn.Module):
    """``inputs``, then :meth:`transform`, which a kind of head implements; all that is learned is in ``state_dict``.

    Training passes a generator for dropout; without one the network embeds.
    """

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.inputs = inputs

    @property
    def dim(self) -> int:
        """E, where the settings do not give it: the size of the feature."""
        return self.inputs.dim

    def observe(self, features: Rows) -> None:
        """Compute the statistics of ``inputs`` from the training features (N, D)."""
        self.inputs.observe(features)

    def transform(self, prepared: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        """Embeddings (B, E) before unit length of the output of ``inputs``, ``prepared`` (B, D) float32."""
        raise NotImplementedError(f"{type(self).__name__} has no map: a kind of head is a subclass with one")

    def project(self, features: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        """Embeddings (B, E) before unit length of ``features`` (B, D); with a generator, with dropout."""
        return self.transform(self.inputs(features), dropout)

    def forward(self, features: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        """:meth:`project` brought to unit length."""
        return normalize(self.project(features, dropout))
