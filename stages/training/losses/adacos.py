"""AdaCos: no margin, and a scale that training chooses (Zhang et al., CVPR 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stages.training.losses.kernel import MarginSoftmaxConfig
from stages.training.losses.rule import Rule
from stages.training.losses.schedule import Scheduled

# The published scale of three classes. For two classes the formula gives 0, and nothing would be learned; with few
# classes and cosines below 0 it can fall under 0, and the loss would be turned round.
SMALLEST_SCALE = math.sqrt(2) * math.log(2)


@dataclass(frozen=True)
class AdaCosConfig(MarginSoftmaxConfig):
    """AdaCos: the scale begins at sqrt(2) log(C - 1) and follows the batches; ``dynamic`` = false keeps it there.

    There is nothing to choose, and a ``scale`` is refused. It is never below ``SMALLEST_SCALE``, 0.98.
    """

    kind: Literal["adacos"] = "adacos"
    dynamic: bool = True
    scale: Scheduled = field(default=1.0, kw_only=True)  # unused: the rule has the scale

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale != 1.0:
            raise ValueError(f"adacos chooses its scale, got {self.scale}; leave scale out, or take kind = 'normface'")

    def rule(self, class_sizes: Tensor, generator: torch.Generator) -> Rule:
        """No margin; the scale of the rule."""
        del generator
        return AdaptiveScale(len(class_sizes)) if self.dynamic else FixedScale(len(class_sizes))


class FixedScale(Rule):
    """sqrt(2) log(``classes`` - 1), as a buffer."""

    value: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        others = max(classes - 1, 2)
        self.register_buffer("value", torch.tensor(math.sqrt(2) * math.log(others)))

    def scale(self, scale: float) -> Tensor:
        """See :class:`Rule`."""
        del scale
        return self.value


class AdaptiveScale(FixedScale):
    """log(B) / cos(min(pi / 4, t)): B the mean sum of exp(scale * cosine) over other classes, t the target's median.

    The median is that of the angles between embeddings and their own prototypes alone.
    """

    needs_sums: ClassVar[bool] = True

    def observe_sums(self, cosine: Tensor, log_sums: Tensor) -> None:
        """See :class:`Rule`."""
        # The angle where the softmax is steepest for the target, half sure: s cos t = log B, B the sum over the others.
        log_mean = log_sums.logsumexp(-1) - math.log(log_sums.shape[-1])
        median = -cosine.neg().median(-1).values  # the lower median of the angles is the upper one of the cosines
        self.value = (log_mean / median.clamp_min(math.sqrt(0.5))).clamp_min(SMALLEST_SCALE)
