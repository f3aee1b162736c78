"""ArcFace: the margin is an angle between the embedding and its prototype (Deng et al., CVPR 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stages.training.losses.kernel import MarginSoftmaxConfig
from stages.training.losses.rule import Rule
from stages.training.losses.schedule import Ramp, ends, value_at

_INSIDE = 1 - torch.finfo(torch.float32).eps  # the angle's slope is infinite at a cosine of exactly 1


@dataclass(frozen=True)
class ArcFaceConfig(MarginSoftmaxConfig):
    """ArcFace; with ``subcenters`` above 1, Sub-center ArcFace (Deng et al., ECCV 2020), as UniFEx trains with 3.

    ``margin_rad`` is an angle in radians, a number or a ramp over the training.
    """

    kind: Literal["arcface"] = "arcface"
    margin_rad: float | Ramp = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 <= margin < math.pi for margin in ends(self.margin_rad)):
            raise ValueError(
                f"margin_rad is an angle in radians in [0, pi), got {self.margin_rad}; degrees are * pi / 180"
            )

    def rule(self, class_sizes: Tensor, generator: torch.Generator) -> Rule:
        """See :func:`add_angle`."""
        del class_sizes, generator
        return AddAngle(self.margin_rad)


class AddAngle(Rule):
    """The target's angle plus ``margin_rad``."""

    def __init__(self, margin_rad: float | Ramp) -> None:
        super().__init__()
        self.setting = margin_rad
        self.at(0.0)

    def at(self, share: float) -> None:
        """See :class:`Rule`."""
        self.margin_rad = value_at(self.setting, share)

    def target(self, cosine: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        """See :class:`Rule`."""
        del norms, labels
        return add_angle(cosine, self.margin_rad)


def add_angle(cosine: Tensor, margin_rad: float) -> Tensor:
    """cos(t + margin) for ``cosine`` = cos(t), any shape.

    Where t + margin would pass pi the cosine would grow again: there cos(t) - margin * sin(margin) is taken.
    """
    if margin_rad == 0:
        return cosine
    cosine = cosine.clamp(-_INSIDE, _INSIDE)
    turned = cosine * math.cos(margin_rad) - (1 - cosine.square()).sqrt() * math.sin(margin_rad)
    return torch.where(cosine > -math.cos(margin_rad), turned, cosine - margin_rad * math.sin(margin_rad))
