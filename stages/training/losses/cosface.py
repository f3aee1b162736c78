"""CosFace: the margin is taken from the cosine itself (Wang et al., CVPR 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stages.training.losses.kernel import MarginSoftmaxConfig
from stages.training.losses.rule import Rule
from stages.training.losses.schedule import Ramp, ends, value_at


@dataclass(frozen=True)
class CosFaceConfig(MarginSoftmaxConfig):
    """CosFace. ``margin_cos`` is a difference of cosines, a number or a ramp over the training."""

    kind: Literal["cosface"] = "cosface"
    margin_cos: float | Ramp = 0.35

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 <= margin <= 1 for margin in ends(self.margin_cos)):
            raise ValueError(f"margin_cos is a difference of cosines in [0, 1], got {self.margin_cos}")

    def rule(self, class_sizes: Tensor, generator: torch.Generator) -> Rule:
        """The target's cosine less the margin."""
        del class_sizes, generator
        return Subtract(self.margin_cos)


class Subtract(Rule):
    """The target's cosine less ``margin_cos``."""

    def __init__(self, margin_cos: float | Ramp) -> None:
        super().__init__()
        self.setting = margin_cos
        self.at(0.0)

    def at(self, share: float) -> None:
        """See :class:`Rule`."""
        self.margin_cos = value_at(self.setting, share)

    def target(self, cosine: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        """See :class:`Rule`."""
        del norms, labels
        return cosine - self.margin_cos
