"""MagFace: longer embeddings get a larger margin, and are rewarded for being long (Meng et al., CVPR 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stages.training.losses.angle import add_angle
from stages.training.losses.kernel import MarginSoftmaxConfig
from stages.training.losses.rule import Rule


@dataclass(frozen=True)
class MagFaceConfig(MarginSoftmaxConfig):
    """MagFace. It reads the length of the head's output: see the caution in docs/losses.md.

    Args:
        shortest_margin_rad: the margin, an angle in radians, of embeddings of ``shortest_norm`` and less.
        longest_margin_rad: that of embeddings of ``longest_norm`` and more; a straight line between.
        shortest_norm: lengths are cut to this,
        longest_norm: and to this.
        norm_weight: of the penalty 1 / a + a / longest_norm^2 for a length a between the two.
    """

    kind: Literal["magface"] = "magface"
    shortest_margin_rad: float = 0.45
    longest_margin_rad: float = 0.8
    shortest_norm: float = 10.0
    longest_norm: float = 110.0
    norm_weight: float = 35.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.shortest_margin_rad <= self.longest_margin_rad < math.pi:
            raise ValueError(
                "shortest_margin_rad and longest_margin_rad are angles in radians, the first not above the second, "
                f"in [0, pi), got {self.shortest_margin_rad} and {self.longest_margin_rad}; degrees are * pi / 180"
            )
        if not 0 < self.shortest_norm < self.longest_norm < math.inf:
            raise ValueError(
                "shortest_norm and longest_norm are lengths, 0 < shortest_norm < longest_norm, got "
                f"{self.shortest_norm} and {self.longest_norm}"
            )
        if not 0 <= self.norm_weight < math.inf:
            raise ValueError(f"norm_weight is at least 0 and finite, got {self.norm_weight}")

    def rule(self, class_sizes: Tensor, generator: torch.Generator) -> Rule:
        """ArcFace's target with a margin by the length."""
        del class_sizes, generator
        return Magnitude(self)


class Magnitude(Rule):
    """The target's angle plus a margin that grows with the length; the gradient reaches the length too."""

    def __init__(self, config: MagFaceConfig) -> None:
        super().__init__()
        self.config = config

    def target(self, cosine: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        """See :class:`Rule`."""
        del labels
        config = self.config
        slope = (config.longest_margin_rad - config.shortest_margin_rad) / (config.longest_norm - config.shortest_norm)
        return add_angle(cosine, config.shortest_margin_rad + slope * (self._length(norms) - config.shortest_norm))

    def penalty(self, norms: Tensor) -> Tensor:
        """See :class:`Rule`."""
        length = self._length(norms)
        return self.config.norm_weight * (1 / length + length / self.config.longest_norm**2).mean(-1)

    def _length(self, norms: Tensor) -> Tensor:
        return norms.clamp(self.config.shortest_norm, self.config.longest_norm)
