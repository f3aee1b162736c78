"""Rules of losses whose margin is set beforehand; ``kinds.py`` has their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from stages.training.losses.angle import INSIDE, add_angle, angle_of, sine_of
from stages.training.losses.margins import MarginRule
from stages.training.losses.random_state import RandomState
from stages.training.losses.settings import MarginSetting


class AddAngle(MarginRule):
    """The target's angle plus the margin."""

    def target(self, cosine: Tensor, _norms: Tensor, labels: Tensor) -> Tensor:
        """See :class:`Rule`."""
        return add_angle(cosine, self.margin_of(labels))


class Subtract(MarginRule):
    """The target's cosine less the margin."""

    def target(self, cosine: Tensor, _norms: Tensor, labels: Tensor) -> Tensor:
        """See :class:`Rule`."""
        return cosine - self.margin_of(labels)


class MultiplyAngle(MarginRule):
    """See :func:`multiply_angle`."""

    def target(self, cosine: Tensor, _norms: Tensor, labels: Tensor) -> Tensor:
        """See :class:`Rule`."""
        return multiply_angle(cosine, self.margin_of(labels))


def multiply_angle(cosine: Tensor, factor: float | Tensor) -> Tensor:
    """(-1)^k cos(factor * t) - 2 k for ``cosine`` = cos(t), k the half turns in factor * t: it falls all the way."""
    if not isinstance(factor, Tensor) and factor == 1:
        return cosine
    angle = angle_of(cosine) * factor
    half_turns = (angle.detach() / math.pi).floor()
    return (1 - 2 * half_turns.remainder(2)) * angle.cos() - 2 * half_turns


class LinearAngle(MarginRule):
    """1 - 2 t / pi in the place of every cos(t), the target's t plus the margin, also past pi."""

    def target(self, cosine: Tensor, _norms: Tensor, labels: Tensor) -> Tensor:
        """See :class:`Rule`."""
        return 1 - (angle_of(cosine) + self.margin_of(labels)) * (2 / math.pi)

    def others(self, cosine: Tensor, _own: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Rule`."""
        # dt/dc = -1 / sin t, and 0 where the angle is cut: there a cosine rounded to 1 would have a slope of 1,300.
        inside = cosine.abs() <= INSIDE
        return 1 - angle_of(cosine) * (2 / math.pi), (2 / math.pi) * inside / sine_of(cosine)


class Elastic(MarginRule):
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
        """See :class:`Rule`."""
        drawn = torch.zeros(cosine.shape, device="cpu")  # where the generator is
        if self.training:
            drawn.normal_(generator=self.random_state.generator)
        drawn = drawn.to(cosine.device) * self.deviation + self.margin_of(labels)
        return self.move(cosine, drawn.clamp(0, self.most))
