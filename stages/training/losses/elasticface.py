"""ElasticFace: each row draws its own margin around the mean, every step (Boutros et al., CVPR workshops 2022)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stages.training.losses.angle import add_angle
from stages.training.losses.kernel import MarginSoftmaxConfig
from stages.training.losses.margins import Margin, MarginRule, MarginSetting, check_angle, check_difference
from stages.training.losses.random_state import RandomState
from stages.training.losses.rule import Rule


@dataclass(frozen=True)
class ElasticArcFaceConfig(MarginSoftmaxConfig):
    """ArcFace whose margins are normal around ``margin_rad`` with ``deviation_rad``, both radians."""

    kind: Literal["elastic_arcface"] = "elastic_arcface"
    margin_rad: MarginSetting = 0.5
    deviation_rad: float = 0.0125

    def __post_init__(self) -> None:
        super().__post_init__()
        check_angle(self.margin_rad)
        if not 0 <= self.deviation_rad < math.pi:
            raise ValueError(f"deviation_rad is an angle in radians in [0, pi), got {self.deviation_rad}")

    def rule(self, class_sizes: Tensor, generator: torch.Generator) -> Rule:
        """ArcFace's target with a margin of its own for each row."""
        return Elastic(
            add_angle, Margin(self.margin_rad, class_sizes), self.deviation_rad, math.pi, RandomState(generator)
        )


@dataclass(frozen=True)
class ElasticCosFaceConfig(MarginSoftmaxConfig):
    """CosFace whose margins are normal around ``margin_cos`` with ``deviation_cos``, both differences of cosines."""

    kind: Literal["elastic_cosface"] = "elastic_cosface"
    margin_cos: MarginSetting = 0.35
    deviation_cos: float = 0.0125

    def __post_init__(self) -> None:
        super().__post_init__()
        check_difference(self.margin_cos)
        if not 0 <= self.deviation_cos <= 1:
            raise ValueError(f"deviation_cos is a difference of cosines in [0, 1], got {self.deviation_cos}")

    def rule(self, class_sizes: Tensor, generator: torch.Generator) -> Rule:
        """CosFace's target with a margin of its own for each row."""
        return Elastic(torch.sub, Margin(self.margin_cos, class_sizes), self.deviation_cos, 1.0, RandomState(generator))


class Elastic(MarginRule):
    """``move(cosine, margin)``, the margin normal around ``margin``, cut to [0, ``most``]; in evaluation the mean."""

    def __init__(
        self,
        move: Callable[[Tensor, Tensor], Tensor],
        margin: Margin,
        deviation: float,
        most: float,
        random_state: RandomState,
    ) -> None:
        super().__init__(margin)
        self.move = move
        self.deviation = deviation
        self.most = most
        self.random_state = random_state

    def target(self, cosine: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        """See :class:`Rule`."""
        del norms
        drawn = torch.zeros(cosine.shape, device="cpu")  # where the generator is
        if self.training:
            drawn.normal_(generator=self.random_state.generator)
        drawn = drawn.to(cosine.device) * self.deviation + self.margin.of(labels)
        return self.move(cosine, drawn.clamp(0, self.most))
