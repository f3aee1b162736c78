"""SphereFace: the target's angle is multiplied (Liu et al., CVPR 2017), the scale is fixed (SphereFace-R, 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stages.training.losses.angle import angle_of
from stages.training.losses.kernel import MarginSoftmaxConfig
from stages.training.losses.margins import Margin, MarginSetting, extremes
from stages.training.losses.rule import Rule


@dataclass(frozen=True)
class SphereFaceConfig(MarginSoftmaxConfig):
    """SphereFace. ``margin_factor``, at least 1, is what the target's angle is multiplied by; 1 is no margin.

    The target is that of the 2017 paper, whose factor was 4; embeddings are of unit length times ``scale``, as in
    SphereFace-R (Liu et al., TPAMI 2022), whose factor is about 1.5. A ramp from 1 does the work of their annealing.
    """

    kind: Literal["sphereface"] = "sphereface"
    margin_factor: MarginSetting = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(1 <= factor < math.inf for factor in extremes(self.margin_factor)):
            raise ValueError(f"margin_factor multiplies the angle, at least 1 and finite, got {self.margin_factor}")

    def rule(self, class_sizes: Tensor, generator: torch.Generator) -> Rule:
        """See :func:`multiply_angle`."""
        del generator
        return MultiplyAngle(Margin(self.margin_factor, class_sizes))


class MultiplyAngle(Rule):
    """The target's angle times ``factor``."""

    def __init__(self, factor: Margin) -> None:
        super().__init__()
        self.factor = factor

    def at(self, share: float) -> None:
        """See :class:`Rule`."""
        self.factor.at(share)

    def target(self, cosine: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        """See :class:`Rule`."""
        del norms
        return multiply_angle(cosine, self.factor.of(labels))


def multiply_angle(cosine: Tensor, factor: float | Tensor) -> Tensor:
    """(-1)^k cos(factor * t) - 2 k for ``cosine`` = cos(t), k the half turns in factor * t: it falls all the way."""
    if not isinstance(factor, Tensor) and factor == 1:
        return cosine
    angle = angle_of(cosine) * factor
    half_turns = (angle.detach() / math.pi).floor()
    return (1 - 2 * half_turns.remainder(2)) * angle.cos() - 2 * half_turns
