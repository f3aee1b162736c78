"""The rules of the margin losses, and which computes which."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from stages.training.losses import kinds
from stages.training.losses.angle import INSIDE, add_angle, angle_of, sine_of
from stages.training.losses.kinds import AdaFaceConfig, MagFaceConfig
from stages.training.losses.rule import MarginRule, RandomState, Rule
from stages.training.losses.settings import MarginSetting, MarginSoftmaxConfig

# The published scale of three classes. For two classes AdaCos's formula gives 0, and nothing would be learned; with few
# classes and cosines below 0 it can fall under 0, and the loss would be turned round.
SMALLEST_SCALE = math.sqrt(2) * math.log(2)
_CURRICULUM_RATE = 0.01  # of the running mean, as published
_EDGE = 1e-3  # of AdaFace's moved angle from 0 and pi, and beside the deviation, as in the authors' code

Move: TypeAlias = Callable[[Tensor, "float | Tensor"], Tensor]


class Moved(MarginRule):
    """``move(cosine, margin)`` in the place of the target's cosine."""

    def __init__(self, move: Move, margin: MarginSetting, class_sizes: Tensor) -> None:
        super().__init__(margin, class_sizes)
        self.move = move

    def target(self, cosine: Tensor, _norms: Tensor, labels: Tensor) -> Tensor:
        return self.move(cosine, self.margin_of(labels))


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
        return 1 - (angle_of(cosine) + self.margin_of(labels)) * (2 / math.pi)

    def others(self, cosine: Tensor, _own: Tensor) -> tuple[Tensor, Tensor]:
        # dt/dc = -1 / sin t, and 0 where the angle is cut: there a cosine rounded to 1 would have a slope of 1,300.
        inside = cosine.abs() <= INSIDE
        return 1 - angle_of(cosine) * (2 / math.pi), (2 / math.pi) * inside / sine_of(cosine)


class Elastic(Moved):
    """As :class:`Moved`, the margin normal around the setting, cut to [0, ``most``]; in evaluation the mean."""

    def __init__(
        self,
        move: Move,
        margin: MarginSetting,
        class_sizes: Tensor,
        deviation: float,
        most: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__(move, margin, class_sizes)
        self.deviation, self.most = deviation, most
        self.random_state = RandomState(generator)

    def target(self, cosine: Tensor, _norms: Tensor, labels: Tensor) -> Tensor:
        drawn = torch.zeros(cosine.shape, device="cpu")  # where the generator is
        if self.training:
            drawn.normal_(generator=self.random_state.generator)
        drawn = drawn.to(cosine.device) * self.deviation + self.margin_of(labels)
        return self.move(cosine, drawn.clamp(0, self.most))


class FixedScale(Rule):
    """sqrt(2) log(``classes`` - 1), as a buffer."""

    value: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(math.sqrt(2) * math.log(max(classes - 1, 2))))

    def scale(self, _scale: float) -> Tensor:
        return self.value


class AdaptiveScale(FixedScale):
    """log(B) / cos(min(pi / 4, t)): B the mean sum of exp(scale * cosine) over other classes, t the targets' median."""

    needs_sums: ClassVar[bool] = True

    def observe_sums(self, cosine: Tensor, log_sums: Tensor) -> None:
        # The angle where the softmax is steepest for the target, half sure: s cos t = log B, B the sum over the others.
        log_mean = log_sums.logsumexp(-1) - math.log(log_sums.shape[-1])
        median = -cosine.neg().median(-1).values  # the lower median of the angles is the upper one of the cosines
        self.value = (log_mean / median.clamp_min(math.sqrt(0.5))).clamp_min(SMALLEST_SCALE)


class Curriculum(Moved):
    """The target's angle plus the margin; another class's cosine c that lies above that becomes c * (progress + c)."""

    progress: Tensor  # a running mean of the target's cosine, from 0

    def __init__(self, margin: MarginSetting, class_sizes: Tensor) -> None:
        super().__init__(add_angle, margin, class_sizes)
        self.register_buffer("progress", torch.zeros(()))

    def observe(self, cosine: Tensor, _norms: Tensor) -> None:
        self.progress = self.progress.to(cosine.dtype).lerp(cosine.mean(-1), _CURRICULUM_RATE)

    def others(self, cosine: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        progress = self.progress[..., None, None]
        hard = cosine > own[..., None]
        value = torch.where(hard, cosine * (progress + cosine), cosine)
        return value, torch.where(hard, progress + 2 * cosine, 1.0)  # d/dc c (progress + c) = progress + 2 c


class Quality(MarginRule):
    """cos(t - margin * z) - margin * (1 + z), where z in [-1, 1] says how long an embedding is beside the others.

    A short one (z = -1) has ArcFace's margin, one of mean length CosFace's, a long one (z = 1) more for being far off.
    The first batch of two rows begins the statistics; before it z is 0.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: AdaFaceConfig, class_sizes: Tensor) -> None:
        super().__init__(config.margin, class_sizes)
        self.config = config
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("deviation", torch.full((1,), torch.inf))  # nothing is known yet: z is 0

    def observe(self, _cosine: Tensor, norms: Tensor) -> None:
        if norms.shape[-1] < 2:  # one row has no deviation
            return
        # in float64: the square of a norm of 1e30 is no float32
        deviation, mean = (moment.to(norms.dtype) for moment in torch.std_mean(norms.double(), -1, keepdim=True))
        first, rate = self.deviation.isinf(), self.config.statistics_rate
        self.mean = torch.where(first, mean, self.mean.to(mean.dtype).lerp(mean, rate))
        self.deviation = torch.where(first, deviation, self.deviation.to(mean.dtype).lerp(deviation, rate))

    def target(self, cosine: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        z = self.config.concentration * (norms.detach() - self.mean) / (self.deviation + _EDGE)
        z = z.clamp(-1, 1)
        margin = self.margin_of(labels)
        return (angle_of(cosine) - margin * z).clamp(_EDGE, math.pi - _EDGE).cos() - margin * (1 + z)


class Magnitude(Rule):
    """ArcFace's target with a margin by the length; the gradient reaches the length too."""

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


def rule_of(config: MarginSoftmaxConfig, class_sizes: Tensor, generator: torch.Generator) -> Rule:
    """The rule of ``config`` for classes of ``class_sizes`` (C,) training rows."""
    match config:
        case kinds.AdaCosConfig():
            return (AdaptiveScale if config.dynamic else FixedScale)(len(class_sizes))
        case kinds.AdaFaceConfig():
            return Quality(config, class_sizes)
        case kinds.ArcFaceConfig():
            return Moved(add_angle, config.margin_rad, class_sizes)
        case kinds.CosFaceConfig():
            return Moved(torch.sub, config.margin_cos, class_sizes)
        case kinds.CurricularFaceConfig():
            return Curriculum(config.margin_rad, class_sizes)
        case kinds.ElasticArcFaceConfig():
            return Elastic(add_angle, config.margin_rad, class_sizes, config.deviation_rad, math.pi, generator)
        case kinds.ElasticCosFaceConfig():
            return Elastic(torch.sub, config.margin_cos, class_sizes, config.deviation_cos, 1.0, generator)
        case kinds.LiArcFaceConfig():
            return LinearAngle(config.margin_rad, class_sizes)
        case kinds.MagFaceConfig():
            return Magnitude(config)
        case kinds.NormFaceConfig():
            return Rule()
        case kinds.SphereFaceConfig():
            return Moved(multiply_angle, config.margin_factor, class_sizes)
        case _:
            raise NotImplementedError(f"{type(config).__name__} has no rule: a loss is a subclass that gives one")
