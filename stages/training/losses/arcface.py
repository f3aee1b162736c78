"""ArcFace: the margin is an angle between the embedding and its prototype (Deng et al., CVPR 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stages.training.losses.kernel import MarginSoftmax, check_softmax

_INSIDE = 1 - torch.finfo(torch.float32).eps  # the angle's slope is infinite at a cosine of exactly 1


@dataclass(frozen=True)
class ArcFaceConfig:
    """ArcFace; with ``subcenters`` above 1, Sub-center ArcFace (Deng et al., ECCV 2020), as UniFEx trains with 3.

    ``margin_rad`` is an angle in radians, ``scale`` the factor on the cosines.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["arcface"] = "arcface"
    subcenters: int = 1
    margin_rad: float = 0.5
    scale: float = 30.0

    def __post_init__(self) -> None:
        check_softmax(self.subcenters, self.scale)
        if not 0 <= self.margin_rad < math.pi:
            raise ValueError(
                f"margin_rad is an angle in radians in [0, pi), got {self.margin_rad}; degrees are * pi / 180"
            )

    def build(self, dim: int, classes: int, generator: torch.Generator) -> MarginSoftmax:
        """The loss of embeddings (B, ``dim``), its prototypes drawn from ``generator``."""
        margin = partial(add_angle, margin_rad=self.margin_rad)
        return MarginSoftmax(dim, classes, margin, subcenters=self.subcenters, scale=self.scale, generator=generator)


def add_angle(cosine: Tensor, margin_rad: float) -> Tensor:
    """cos(t + margin) for ``cosine`` = cos(t), any shape.

    Where t + margin would pass pi the cosine would grow again: there cos(t) - margin * sin(margin) is taken.
    """
    if margin_rad == 0:
        return cosine
    cosine = cosine.clamp(-_INSIDE, _INSIDE)
    turned = cosine * math.cos(margin_rad) - (1 - cosine.square()).sqrt() * math.sin(margin_rad)
    return torch.where(cosine > -math.cos(margin_rad), turned, cosine - margin_rad * math.sin(margin_rad))
