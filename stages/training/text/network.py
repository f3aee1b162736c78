"""A head with two maps into one space: of features, and of encoded sentences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stages.training.heads.inputs import Inputs
from stages.training.heads.networks import HeadNetwork
from stages.training.losses.angle import normalize

FITTED = ("image_mean", "image_map", "text_mean", "text_map")


class TextNetwork(HeadNetwork):
    """``image_mean`` (D,), ``image_map`` (D, E), ``text_mean`` (T,) and ``text_map`` (T, E), of what was fitted."""

    image_mean: Tensor
    image_map: Tensor
    text_mean: Tensor
    text_map: Tensor

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        for name in FITTED:
            self.register_buffer(name, torch.empty(0))

    @property
    def dim(self) -> int:
        """E."""
        return int(self.image_map.shape[1])

    def transform(self, prepared: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        """See :meth:`HeadNetwork.transform`."""
        del dropout
        return (prepared - self.image_mean) @ self.image_map

    def text(self, encoded: Tensor) -> Tensor:
        """The embeddings (B, E), of unit length, of ``encoded`` sentences (B, T)."""
        return normalize((encoded - self.text_mean) @ self.text_map)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in FITTED:
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name]))
        super()._load_from_state_dict(state_dict, prefix, *rest)
