"""AdaFace: the margin follows the length of the embedding, taken for the quality of the image (CVPR 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stages.training.losses.angle import angle_of
from stages.training.losses.kernel import MarginSoftmaxConfig
from stages.training.losses.margins import Margin, MarginRule, MarginSetting, extremes
from stages.training.losses.rule import Rule

_EDGE = 1e-3  # of the moved angle from 0 and pi, and beside the deviation, as in the authors' code


@dataclass(frozen=True)
class AdaFaceConfig(MarginSoftmaxConfig):
    """AdaFace (Kim et al.). It reads the length of the head's output: see the caution in docs/losses.md.

    Args:
        margin: an angle in radians for the shortest embeddings, a difference of cosines for those of mean length.
        concentration: the margin moves over norms within 1 / ``concentration`` deviations of the mean.
        statistics_rate: the share of a new batch in the running mean and deviation of the norms, in (0, 1].
    """

    kind: Literal["adaface"] = "adaface"
    margin: MarginSetting = 0.4
    concentration: float = 0.333
    statistics_rate: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 <= margin <= 1 for margin in extremes(self.margin)):
            raise ValueError(f"margin is both radians and a difference of cosines, in [0, 1], got {self.margin}")
        if not 0 <= self.concentration < math.inf:
            raise ValueError(f"concentration is at least 0 and finite, got {self.concentration}")
        if not 0 < self.statistics_rate <= 1:
            raise ValueError(f"statistics_rate is the share of a new batch, in (0, 1], got {self.statistics_rate}")

    def rule(self, class_sizes: Tensor, generator: torch.Generator) -> Rule:
        """The target moved by the margin and the row's quality."""
        del generator
        return Quality(Margin(self.margin, class_sizes), self.concentration, self.statistics_rate)


class Quality(MarginRule):
    """cos(t - margin * z) - margin * (1 + z), where z in [-1, 1] says how long an embedding is beside the others.

    A short one (z = -1) has ArcFace's margin, one of mean length CosFace's, a long one (z = 1) more for being far off.
    Before the first batch of two rows, which begins the statistics, z is 0. A batch of one row has no deviation and
    leaves them as they are.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, margin: Margin, concentration: float, statistics_rate: float) -> None:
        super().__init__(margin)
        self.concentration = concentration
        self.rate = statistics_rate
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("deviation", torch.full((1,), torch.inf))  # nothing is known yet: z is 0

    def observe(self, cosine: Tensor, norms: Tensor) -> None:
        """See :class:`Rule`."""
        del cosine
        if norms.shape[-1] < 2:
            return
        deviation, mean = torch.std_mean(norms, -1, keepdim=True)
        first = self.deviation.isinf()
        self.mean = torch.where(first, mean, self.mean.to(mean.dtype).lerp(mean, self.rate))
        self.deviation = torch.where(first, deviation, self.deviation.to(mean.dtype).lerp(deviation, self.rate))

    def target(self, cosine: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        """See :class:`Rule`."""
        z = self.concentration * (norms.detach() - self.mean) / (self.deviation + _EDGE)
        z = z.clamp(-1, 1)
        margin = self.margin.of(labels)
        return (angle_of(cosine) - margin * z).clamp(_EDGE, math.pi - _EDGE).cos() - margin * (1 + z)
