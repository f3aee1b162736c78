"""Losses whose margin is set beforehand.

With t the angle between an embedding and the prototype of its class, and m the margin, cos t of the target becomes::

    NormFace      cos t                                       Wang et al., ACM Multimedia 2017
    ArcFace       cos(t + m)                                  Deng et al., CVPR 2019
    CosFace       cos t - m                                   Wang et al., CVPR 2018
    SphereFace    cos(m t), continued so that it falls        Liu et al., CVPR 2017; fixed scale: SphereFace-R, 2022
    Li-ArcFace    1 - 2 (t + m) / pi, and of the others too   Li et al., AirFace, ICCV workshops 2019
    ElasticFace   as ArcFace or CosFace, m drawn              Boutros et al., CVPR workshops 2022
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cache.errors import SettingsError
from stages.training.losses.angle import add_angle, angle_of, sine_of
from stages.training.losses.kernel import MarginSoftmaxConfig
from stages.training.losses.margins import MarginRule, MarginSetting, extremes
from stages.training.losses.random_state import RandomState
from stages.training.losses.rule import Rule


@dataclass(frozen=True)
class NormFaceConfig(MarginSoftmaxConfig):
    """NormFace: what every other loss here is when its margin is 0."""

    kind: Literal["normface"] = "normface"

    def rule(self, _class_sizes: Tensor, _generator: torch.Generator) -> Rule:
        """The rule that moves nothing."""
        return Rule()


@dataclass(frozen=True)
class AngularConfig(MarginSoftmaxConfig):
    """A loss whose ``margin_rad`` is an angle in radians: a number, a ramp over the training, or by class size."""

    margin_rad: MarginSetting = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 <= margin < math.pi for margin in extremes(self.margin_rad)):
            raise SettingsError(
                f"margin_rad is an angle in radians in [0, pi), got {self.margin_rad}; degrees are * pi / 180"
            )


@dataclass(frozen=True)
class ArcFaceConfig(AngularConfig):
    """ArcFace; with ``subcenters`` above 1, Sub-center ArcFace (Deng et al., ECCV 2020), as UniFEx trains with 3.

    ``margin_rad`` by the size of the class is what UniFEx calls dynamic margins.
    """

    kind: Literal["arcface"] = "arcface"

    def rule(self, class_sizes: Tensor, _generator: torch.Generator) -> Rule:
        """See :func:`~stages.training.losses.angle.add_angle`."""
        return AddAngle(self.margin_rad, class_sizes)


class AddAngle(MarginRule):
    """The target's angle plus the margin."""

    def target(self, cosine: Tensor, _norms: Tensor, labels: Tensor) -> Tensor:
        """See :class:`Rule`."""
        return add_angle(cosine, self.margin_of(labels))


@dataclass(frozen=True)
class CosineConfig(MarginSoftmaxConfig):
    """A loss whose ``margin_cos`` is a difference of cosines: a number, a ramp over the training, or by class size."""

    margin_cos: MarginSetting = 0.35

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 <= margin <= 1 for margin in extremes(self.margin_cos)):
            raise SettingsError(f"margin_cos is a difference of cosines in [0, 1], got {self.margin_cos}")


@dataclass(frozen=True)
class CosFaceConfig(CosineConfig):
    """CosFace."""

    kind: Literal["cosface"] = "cosface"

    def rule(self, class_sizes: Tensor, _generator: torch.Generator) -> Rule:
        """The target's cosine less the margin."""
        return _Subtract(self.margin_cos, class_sizes)


class _Subtract(MarginRule):
    def target(self, cosine: Tensor, _norms: Tensor, labels: Tensor) -> Tensor:
        return cosine - self.margin_of(labels)


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
            raise SettingsError(f"margin_factor multiplies the angle, at least 1 and finite, got {self.margin_factor}")

    def rule(self, class_sizes: Tensor, _generator: torch.Generator) -> Rule:
        """See :func:`multiply_angle`."""
        return _MultiplyAngle(self.margin_factor, class_sizes)


class _MultiplyAngle(MarginRule):
    def target(self, cosine: Tensor, _norms: Tensor, labels: Tensor) -> Tensor:
        return multiply_angle(cosine, self.margin_of(labels))


def multiply_angle(cosine: Tensor, factor: float | Tensor) -> Tensor:
    """(-1)^k cos(factor * t) - 2 k for ``cosine`` = cos(t), k the half turns in factor * t: it falls all the way."""
    if not isinstance(factor, Tensor) and factor == 1:
        return cosine
    angle = angle_of(cosine) * factor
    half_turns = (angle.detach() / math.pi).floor()
    return (1 - 2 * half_turns.remainder(2)) * angle.cos() - 2 * half_turns


@dataclass(frozen=True)
class LiArcFaceConfig(AngularConfig):
    """Li-ArcFace, made for small embeddings: logits fall in a straight line with the angle."""

    kind: Literal["li_arcface"] = "li_arcface"
    margin_rad: MarginSetting = 0.45

    def rule(self, class_sizes: Tensor, _generator: torch.Generator) -> Rule:
        """1 - 2 t / pi in the place of every cos(t), the target's t plus the margin, also past pi."""
        return _LinearAngle(self.margin_rad, class_sizes)


class _LinearAngle(MarginRule):
    def target(self, cosine: Tensor, _norms: Tensor, labels: Tensor) -> Tensor:
        return 1 - (angle_of(cosine) + self.margin_of(labels)) * (2 / math.pi)

    def others(self, cosine: Tensor, _own: Tensor) -> tuple[Tensor, Tensor]:
        # dt/dc = -1 / sin t
        return 1 - angle_of(cosine) * (2 / math.pi), (2 / math.pi) / sine_of(cosine)


@dataclass(frozen=True)
class ElasticArcFaceConfig(AngularConfig):
    """ArcFace; each row draws its margin, every step, normal around ``margin_rad`` with ``deviation_rad`` radians."""

    kind: Literal["elastic_arcface"] = "elastic_arcface"
    deviation_rad: float = 0.0125

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.deviation_rad < math.pi:
            raise SettingsError(f"deviation_rad is an angle in radians in [0, pi), got {self.deviation_rad}")

    def rule(self, class_sizes: Tensor, generator: torch.Generator) -> Rule:
        """ArcFace's target with a margin of its own for each row."""
        return _Elastic(add_angle, self.margin_rad, class_sizes, self.deviation_rad, math.pi, generator)


@dataclass(frozen=True)
class ElasticCosFaceConfig(CosineConfig):
    """CosFace; each row draws its margin, every step, normal around ``margin_cos`` with ``deviation_cos``."""

    kind: Literal["elastic_cosface"] = "elastic_cosface"
    deviation_cos: float = 0.0125

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.deviation_cos <= 1:
            raise SettingsError(f"deviation_cos is a difference of cosines in [0, 1], got {self.deviation_cos}")

    def rule(self, class_sizes: Tensor, generator: torch.Generator) -> Rule:
        """CosFace's target with a margin of its own for each row."""
        return _Elastic(torch.sub, self.margin_cos, class_sizes, self.deviation_cos, 1.0, generator)


class _Elastic(MarginRule):
    """``move(cosine, margin)``, the margin normal around the setting, cut to [0, ``most``]; in evaluation the mean."""

    def __init__(
        self,
        move: Callable[[Tensor, Tensor], Tensor],
        margin: MarginSetting,
        class_sizes: Tensor,
        deviation: float,
        most: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__(margin, class_sizes)
        self.move, self.deviation, self.most = move, deviation, most
        self.random_state = RandomState(generator)

    def target(self, cosine: Tensor, _norms: Tensor, labels: Tensor) -> Tensor:
        drawn = torch.zeros(cosine.shape, device="cpu")  # where the generator is
        if self.training:
            drawn.normal_(generator=self.random_state.generator)
        drawn = drawn.to(cosine.device) * self.deviation + self.margin_of(labels)
        return self.move(cosine, drawn.clamp(0, self.most))
