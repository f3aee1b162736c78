"""CosFace: the margin is taken from the cosine itself (Wang et al., CVPR 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stages.training.losses.kernel import MarginSoftmax, check_softmax


@dataclass(frozen=True)
class CosFaceConfig:
    """CosFace. ``margin_cos`` is a difference of cosines, ``scale`` the factor on the cosines."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["cosface"] = "cosface"
    subcenters: int = 1
    margin_cos: float = 0.35
    scale: float = 30.0

    def __post_init__(self) -> None:
        check_softmax(self.subcenters, self.scale)
        if not 0 <= self.margin_cos <= 1:
            raise ValueError(f"margin_cos is a difference of cosines in [0, 1], got {self.margin_cos}")

    def build(self, dim: int, classes: int, generator: torch.Generator) -> MarginSoftmax:
        """The loss of embeddings (B, ``dim``), its prototypes drawn from ``generator``."""
        margin = partial(subtract, margin_cos=self.margin_cos)
        return MarginSoftmax(dim, classes, margin, subcenters=self.subcenters, scale=self.scale, generator=generator)


def subtract(cosine: Tensor, margin_cos: float) -> Tensor:
    """``cosine`` - ``margin_cos``, any shape."""
    return cosine - margin_cos
