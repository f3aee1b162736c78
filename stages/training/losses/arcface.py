"""ArcFace: the margin is an angle between the embedding and its prototype (Deng et al., CVPR 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stages.training.losses.angle import add_angle
from stages.training.losses.kernel import MarginSoftmaxConfig
from stages.training.losses.margins import Margin, MarginRule, MarginSetting, check_angle
from stages.training.losses.rule import Rule


@dataclass(frozen=True)
class ArcFaceConfig(MarginSoftmaxConfig):
    """ArcFace; with ``subcenters`` above 1, Sub-center ArcFace (Deng et al., ECCV 2020), as UniFEx trains with 3.

    ``margin_rad`` is an angle in radians: a number, a ramp over the training, or by the size of the class (what UniFEx
    calls dynamic margins).
    """

    kind: Literal["arcface"] = "arcface"
    margin_rad: MarginSetting = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_angle(self.margin_rad)

    def rule(self, class_sizes: Tensor, generator: torch.Generator) -> Rule:
        """See :func:`~stages.training.losses.angle.add_angle`."""
        del generator
        return AddAngle(Margin(self.margin_rad, class_sizes))


class AddAngle(MarginRule):
    """The target's angle plus ``margin``."""

    def target(self, cosine: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        """See :class:`Rule`."""
        del norms
        return add_angle(cosine, self.margin.of(labels))
