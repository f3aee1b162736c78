"""Li-ArcFace: logits that fall in a straight line with the angle (Li et al., AirFace, ICCV workshops 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stages.training.losses.angle import angle_of, sine_of
from stages.training.losses.kernel import MarginSoftmaxConfig
from stages.training.losses.margins import Margin, MarginRule, MarginSetting, check_angle
from stages.training.losses.rule import Rule


@dataclass(frozen=True)
class LiArcFaceConfig(MarginSoftmaxConfig):
    """Li-ArcFace, made for small embeddings. ``margin_rad`` is an angle in radians, as in ArcFace."""

    kind: Literal["li_arcface"] = "li_arcface"
    margin_rad: MarginSetting = 0.45

    def __post_init__(self) -> None:
        super().__post_init__()
        check_angle(self.margin_rad)

    def rule(self, class_sizes: Tensor, generator: torch.Generator) -> Rule:
        """1 - 2 t / pi in the place of every cos(t), the target's t plus the margin."""
        del generator
        return LinearAngle(Margin(self.margin_rad, class_sizes))


class LinearAngle(MarginRule):
    """1 - 2 t / pi in the place of every cos(t); of the target t + ``margin``, also past pi."""

    def target(self, cosine: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        """See :class:`Rule`."""
        del norms
        return 1 - (angle_of(cosine) + self.margin.of(labels)) * (2 / math.pi)

    def others(self, cosine: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Rule`."""
        del own  # dt/dc = -1 / sin t
        return 1 - angle_of(cosine) * (2 / math.pi), (2 / math.pi) / sine_of(cosine)
