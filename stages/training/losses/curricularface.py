"""CurricularFace: hard other classes count for little at first, and for more as training succeeds (CVPR 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stages.training.losses.angle import add_angle
from stages.training.losses.kernel import MarginSoftmaxConfig
from stages.training.losses.margins import Margin, MarginRule, MarginSetting, check_angle
from stages.training.losses.rule import Rule

_RATE = 0.01  # of the running mean, as published


@dataclass(frozen=True)
class CurricularFaceConfig(MarginSoftmaxConfig):
    """CurricularFace (Huang et al.). ``margin_rad`` is an angle in radians, as in ArcFace."""

    kind: Literal["curricularface"] = "curricularface"
    margin_rad: MarginSetting = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_angle(self.margin_rad)

    def rule(self, class_sizes: Tensor, generator: torch.Generator) -> Rule:
        """ArcFace's target, and other cosines by how far training has come."""
        del generator
        return Curriculum(Margin(self.margin_rad, class_sizes))


class Curriculum(MarginRule):
    """The target's angle plus ``margin``; another class's cosine c that lies above that becomes c * (progress + c).

    ``progress`` is a running mean of the target's cosine, from 0.
    """

    progress: Tensor

    def __init__(self, margin: Margin) -> None:
        super().__init__(margin)
        self.register_buffer("progress", torch.zeros(()))

    def observe(self, cosine: Tensor, norms: Tensor) -> None:
        """See :class:`Rule`."""
        del norms
        self.progress = self.progress.to(cosine.dtype).lerp(cosine.mean(-1), _RATE)

    def target(self, cosine: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        """See :class:`Rule`."""
        del norms
        return add_angle(cosine, self.margin.of(labels))

    def others(self, cosine: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Rule`."""
        progress = self.progress[..., None, None]
        hard = cosine > own[..., None]
        value = torch.where(hard, cosine * (progress + cosine), cosine)
        return value, torch.where(hard, progress + 2 * cosine, 1.0)  # d/dc c (progress + c) = progress + 2 c
