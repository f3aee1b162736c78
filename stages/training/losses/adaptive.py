"""Losses that follow what they see: a scale or a margin by the batches so far, or by the length of the embedding."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cache.errors import SettingsError
from stages.training.losses.angle import add_angle, angle_of
from stages.training.losses.fixed import AddAngle, AngularConfig
from stages.training.losses.kernel import MarginSoftmaxConfig
from stages.training.losses.margins import MarginRule, MarginSetting, extremes
from stages.training.losses.rule import Rule
from stages.training.losses.schedule import Scheduled

# The published scale of three classes. For two classes AdaCos's formula gives 0, and nothing would be learned; with few
# classes and cosines below 0 it can fall under 0, and the loss would be turned round.
SMALLEST_SCALE = math.sqrt(2) * math.log(2)
_CURRICULUM_RATE = 0.01  # of the running mean, as published
_EDGE = 1e-3  # of AdaFace's moved angle from 0 and pi, and beside the deviation, as in the authors' code


@dataclass(frozen=True)
class AdaCosConfig(MarginSoftmaxConfig):
    """AdaCos (Zhang et al., CVPR 2019): no margin, and a scale that training chooses.

    The scale begins at sqrt(2) log(C - 1) and follows the batches; ``dynamic`` = false keeps it there. There is nothing
    to choose, and a ``scale`` is refused. It is never below ``SMALLEST_SCALE``, 0.98.
    """

    kind: Literal["adacos"] = "adacos"
    dynamic: bool = True
    scale: Scheduled = field(default=1.0, kw_only=True)  # unused: the rule has the scale

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale != 1.0:
            raise SettingsError(
                f"adacos chooses its scale, got {self.scale}; leave scale out, or take kind = 'normface'"
            )

    def rule(self, class_sizes: Tensor, _generator: torch.Generator) -> Rule:
        """No margin; the scale of the rule."""
        return _AdaptiveScale(len(class_sizes)) if self.dynamic else FixedScale(len(class_sizes))


class FixedScale(Rule):
    """sqrt(2) log(``classes`` - 1), as a buffer."""

    value: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        others = max(classes - 1, 2)
        self.register_buffer("value", torch.tensor(math.sqrt(2) * math.log(others)))

    def scale(self, _scale: float) -> Tensor:
        """See :class:`Rule`."""
        return self.value


class _AdaptiveScale(FixedScale):
    """log(B) / cos(min(pi / 4, t)): B the mean sum of exp(scale * cosine) over other classes, t the target's median.

    The median is that of the angles between embeddings and their own prototypes alone.
    """

    needs_sums: ClassVar[bool] = True

    def observe_sums(self, cosine: Tensor, log_sums: Tensor) -> None:
        # The angle where the softmax is steepest for the target, half sure: s cos t = log B, B the sum over the others.
        log_mean = log_sums.logsumexp(-1) - math.log(log_sums.shape[-1])
        median = -cosine.neg().median(-1).values  # the lower median of the angles is the upper one of the cosines
        self.value = (log_mean / median.clamp_min(math.sqrt(0.5))).clamp_min(SMALLEST_SCALE)


@dataclass(frozen=True)
class CurricularFaceConfig(AngularConfig):
    """CurricularFace (Huang et al., CVPR 2020): ArcFace, and hard other classes count for more as training succeeds."""

    kind: Literal["curricularface"] = "curricularface"

    def rule(self, class_sizes: Tensor, _generator: torch.Generator) -> Rule:
        """ArcFace's target, and other cosines by how far training has come."""
        return Curriculum(self.margin_rad, class_sizes)


class Curriculum(AddAngle):
    """The target's angle plus the margin; another class's cosine c that lies above that becomes c * (progress + c).

    ``progress`` is a running mean of the target's cosine, from 0.
    """

    progress: Tensor

    def __init__(self, margin: MarginSetting, class_sizes: Tensor) -> None:
        super().__init__(margin, class_sizes)
        self.register_buffer("progress", torch.zeros(()))

    def observe(self, cosine: Tensor, _norms: Tensor) -> None:
        """See :class:`Rule`."""
        self.progress = self.progress.to(cosine.dtype).lerp(cosine.mean(-1), _CURRICULUM_RATE)

    def others(self, cosine: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Rule`."""
        progress = self.progress[..., None, None]
        hard = cosine > own[..., None]
        value = torch.where(hard, cosine * (progress + cosine), cosine)
        return value, torch.where(hard, progress + 2 * cosine, 1.0)  # d/dc c (progress + c) = progress + 2 c


@dataclass(frozen=True)
class AdaFaceConfig(MarginSoftmaxConfig):
    """AdaFace (Kim et al., CVPR 2022): the margin follows the embedding's length, taken for the image's quality.

    It reads the length of the head's output: see the caution in docs/losses.md.

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
            raise SettingsError(f"margin is both radians and a difference of cosines, in [0, 1], got {self.margin}")
        if not 0 <= self.concentration < math.inf:
            raise SettingsError(f"concentration is at least 0 and finite, got {self.concentration}")
        if not 0 < self.statistics_rate <= 1:
            raise SettingsError(f"statistics_rate is the share of a new batch, in (0, 1], got {self.statistics_rate}")

    def rule(self, class_sizes: Tensor, _generator: torch.Generator) -> Rule:
        """The target moved by the margin and the row's quality."""
        return Quality(self, class_sizes)


class Quality(MarginRule):
    """cos(t - margin * z) - margin * (1 + z), where z in [-1, 1] says how long an embedding is beside the others.

    A short one (z = -1) has ArcFace's margin, one of mean length CosFace's, a long one (z = 1) more for being far off.
    Before the first batch of two rows, which begins the statistics, z is 0. A batch of one row has no deviation and
    leaves them as they are.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: AdaFaceConfig, class_sizes: Tensor) -> None:
        super().__init__(config.margin, class_sizes)
        self.config = config
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("deviation", torch.full((1,), torch.inf))  # nothing is known yet: z is 0

    def observe(self, _cosine: Tensor, norms: Tensor) -> None:
        """See :class:`Rule`."""
        if norms.shape[-1] < 2:
            return
        deviation, mean = torch.std_mean(norms, -1, keepdim=True)
        first, rate = self.deviation.isinf(), self.config.statistics_rate
        self.mean = torch.where(first, mean, self.mean.to(mean.dtype).lerp(mean, rate))
        self.deviation = torch.where(first, deviation, self.deviation.to(mean.dtype).lerp(deviation, rate))

    def target(self, cosine: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        """See :class:`Rule`."""
        z = self.config.concentration * (norms.detach() - self.mean) / (self.deviation + _EDGE)
        z = z.clamp(-1, 1)
        margin = self.margin_of(labels)
        return (angle_of(cosine) - margin * z).clamp(_EDGE, math.pi - _EDGE).cos() - margin * (1 + z)


@dataclass(frozen=True)
class MagFaceConfig(MarginSoftmaxConfig):
    """MagFace (Meng et al., CVPR 2021): longer embeddings get a larger margin, and are rewarded for being long.

    It reads the length of the head's output: see the caution in docs/losses.md.

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
            raise SettingsError(
                "shortest_margin_rad and longest_margin_rad are angles in radians, the first not above the second, "
                f"in [0, pi), got {self.shortest_margin_rad} and {self.longest_margin_rad}; degrees are * pi / 180"
            )
        if not 0 < self.shortest_norm < self.longest_norm < math.inf:
            raise SettingsError(
                "shortest_norm and longest_norm are lengths, 0 < shortest_norm < longest_norm, got "
                f"{self.shortest_norm} and {self.longest_norm}"
            )
        if not 0 <= self.norm_weight < math.inf:
            raise SettingsError(f"norm_weight is at least 0 and finite, got {self.norm_weight}")

    def rule(self, _class_sizes: Tensor, _generator: torch.Generator) -> Rule:
        """ArcFace's target with a margin by the length; the gradient reaches the length too."""
        return _Magnitude(self)


class _Magnitude(Rule):
    def __init__(self, config: MagFaceConfig) -> None:
        super().__init__()
        self.config = config

    def target(self, cosine: Tensor, norms: Tensor, _labels: Tensor) -> Tensor:
        config = self.config
        slope = (config.longest_margin_rad - config.shortest_margin_rad) / (config.longest_norm - config.shortest_norm)
        return add_angle(cosine, config.shortest_margin_rad + slope * (self._length(norms) - config.shortest_norm))

    def penalty(self, norms: Tensor) -> Tensor:
        length = self._length(norms)
        return self.config.norm_weight * (1 / length + length / self.config.longest_norm**2).mean(-1)

    def _length(self, norms: Tensor) -> Tensor:
        return norms.clamp(self.config.shortest_norm, self.config.longest_norm)
