"""CosFace: the margin is taken from the cosine itself (Wang et al., CVPR 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stages.training.losses.kernel import MarginSoftmaxConfig
from stages.training.losses.margins import Margin, MarginRule, MarginSetting, check_difference
from stages.training.losses.rule import Rule


@dataclass(frozen=True)
class CosFaceConfig(MarginSoftmaxConfig):
    """CosFace. ``margin_cos`` is a difference of cosines: a number, a ramp over the training, or by class size."""

    kind: Literal["cosface"] = "cosface"
    margin_cos: MarginSetting = 0.35

    def __post_init__(self) -> None:
        super().__post_init__()
        check_difference(self.margin_cos)

    def rule(self, class_sizes: Tensor, generator: torch.Generator) -> Rule:
        """The target's cosine less the margin."""
        del generator
        return Subtract(Margin(self.margin_cos, class_sizes))


class Subtract(MarginRule):
    """The target's cosine less ``margin``."""

    def target(self, cosine: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        """See :class:`Rule`."""
        del norms
        return cosine - self.margin.of(labels)
