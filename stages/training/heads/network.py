"""What every head's network has in common: steps before the map, then a map of its own, then unit length."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.training.heads.inputs import Inputs, Rows
from stages.training.losses.angle import normalize


class HeadNetwork(nn.Module):
    """``inputs`` and then :meth:`transform`, which a kind of head gives; everything it knows is in ``state_dict``.

    Training passes a generator, from which dropout is drawn; without one the network embeds.
    """

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.inputs = inputs

    @property
    def dim(self) -> int:
        """E, where the settings leave it to the network: the size of the feature."""
        return self.inputs.dim

    def observe(self, features: Rows) -> None:
        """Take the statistics that ``inputs`` needs from the training features (N, D)."""
        self.inputs.observe(features)

    def transform(self, prepared: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        """Embeddings (B, E) before unit length of what ``inputs`` made of features, ``prepared`` (B, D) float32."""
        raise NotImplementedError(f"{type(self).__name__} has no map: a kind of head is a subclass that gives one")

    def project(self, features: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        """Embeddings (B, E) before unit length of ``features`` (B, D); with a generator, dropout is drawn from it."""
        return self.transform(self.inputs(features), dropout)

    def forward(self, features: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        """:meth:`project` brought to unit length."""
        return normalize(self.project(features, dropout))
