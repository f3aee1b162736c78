"""NormFace: the softmax of cosines, without a margin (Wang et al., ACM Multimedia 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stages.training.losses.kernel import MarginSoftmaxConfig
from stages.training.losses.rule import Rule


@dataclass(frozen=True)
class NormFaceConfig(MarginSoftmaxConfig):
    """NormFace: what every other loss here is when its margin is 0."""

    kind: Literal["normface"] = "normface"

    def rule(self, class_sizes: Tensor, generator: torch.Generator) -> Rule:
        """The rule that moves nothing."""
        del class_sizes, generator
        return Rule()
