"""What distinguishes one margin loss from another: their rules. The kernel does the rest, and knows none by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from cache.errors import SettingsError
from stages.training.losses import kinds
from stages.training.losses.angle import INSIDE, add_angle, angle_of, sine_of
from stages.training.losses.kinds import (
    AdaFaceConfig,
    MagFaceConfig,
    MarginByClassSize,
    MarginSetting,
    MarginSoftmaxConfig,
    value_at,
)


class RandomState(nn.Module):
    """A ``generator`` on the CPU, seeded by one draw from another, whose state is in ``state_dict``."""

    def __init__(self, seeded_by: torch.Generator) -> None:
        super().__init__()
        seed = torch.empty((), dtype=torch.int64).random_(generator=seeded_by)
        self.generator = torch.Generator().manual_seed(int(seed))

    def get_extra_state(self) -> Tensor:
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state.cpu())


class Rule(nn.Module):
    """Moves the cosine of the target, and perhaps those of the other classes; this one moves nothing (NormFace).

    In a step of training the kernel calls, in this order: :meth:`observe`, :meth:`observe_sums` where ``needs_sums``,
    :meth:`scale`, :meth:`target` once, :meth:`others` once or more for every block of classes, :meth:`penalty`. In
    evaluation the two that observe are left out. What a rule has learned is in its buffers, and random numbers come
    from a :class:`RandomState`, so that ``state_dict`` has both.

    >>> import torch
    >>> class HalfMargin(Rule):
    ...     def target(self, cosine, norms, labels):
    ...         return cosine - 0.5
    >>> HalfMargin().target(torch.tensor([0.9]), torch.ones(1), torch.zeros(1))
    tensor([0.4000])

    Cosines and norms are float32, or float64 where the embeddings are, also when the weights are bfloat16.
    """

    needs_sums: ClassVar[bool] = False

    def at(self, share: float) -> None:
        """Set the schedules to where they stand after ``share`` of the training, in [0, 1]."""

    def observe(self, cosine: Tensor, norms: Tensor) -> None:
        """Learn from a batch, without gradient: the target's ``cosine`` (B,) and the embeddings' ``norms`` (B,)."""

    def observe_sums(self, cosine: Tensor, log_sums: Tensor) -> None:
        """Learn from the other classes, without gradient; only where ``needs_sums``: it takes a pass over them.

        ``cosine`` (B,) is the target's, and ``log_sums`` (B,) the logarithm of the sum over the other classes of
        exp(scale * cosine), at the scale so far.
        """

    def scale(self, scale: float) -> float | Tensor:
        """The factor on the cosines, a number or a tensor (), where the settings have ``scale``."""
        return scale

    def target(self, cosine: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        """The target's ``cosine`` (B,) as the margin moves it, in units of the cosine; autograd differentiates it.

        ``norms`` (B,) are the embeddings' lengths; ``labels`` (B,) choose margins that differ by class. Its slope must
        be finite on the whole of [-1, 1], also where a cosine is a rounding error outside.
        """
        del norms, labels
        return cosine

    def others(self, cosine: Tensor, own: Tensor) -> tuple[Tensor, Tensor | None]:
        """What becomes of the ``cosine`` (B, c) of a block of classes, and the derivative by it (None: one everywhere).

        Elementwise, under no_grad. The block may hold the target too; its value there is not used. ``own`` (B,) is the
        moved target, a constant here. Worker threads call this at the same time: results are new tensors, or
        ``cosine`` itself, and nothing is written.
        """
        del own
        return cosine, None

    def penalty(self, norms: Tensor) -> Tensor | None:
        """A scalar added to the loss, differentiable by the embeddings' ``norms`` (B,); None for nothing."""
        del norms
        return None


class MarginRule(Rule):
    """A rule with a margin, whose ``class_sizes`` (C,) are the training rows of each class, in label order."""

    by_class: Tensor | None

    def __init__(self, setting: MarginSetting, class_sizes: Tensor) -> None:
        super().__init__()
        self.setting = setting
        by_class = margins_of(setting, class_sizes) if isinstance(setting, MarginByClassSize) else None
        self.register_buffer("by_class", by_class, persistent=False)  # it follows from the configuration
        self.at(0.0)

    def at(self, share: float) -> None:
        self.margin = 0.0 if isinstance(self.setting, MarginByClassSize) else value_at(self.setting, share)

    def margin_of(self, labels: Tensor) -> float | Tensor:
        """The margin of rows with ``labels``: one number, or a tensor of their shape."""
        return self.margin if self.by_class is None else self.by_class[labels]


def margins_of(setting: MarginByClassSize, class_sizes: Tensor) -> Tensor:
    """The margins (C,), float32, of classes of ``class_sizes`` (C,) rows; the middle of the two if all are equal.

    >>> margins_of(MarginByClassSize(smallest_class=0.6, largest_class=0.2), torch.tensor([3, 10, 17]))
    tensor([0.6000, 0.4000, 0.2000])
    """
    if not (class_sizes > 0).all():
        empty = int((class_sizes <= 0).nonzero()[0])
        raise SettingsError(
            f"a margin by class size needs at least one row in each class, class {empty} has "
            f"{int(class_sizes[empty])}; leave it out, or give one margin for all"
        )
    sizes = class_sizes.double()
    place = sizes.neg() if setting.map == "cosine" else sizes.pow(-0.25)  # the smallest class comes out highest
    spread = place.max() - place.min()
    smallness = (place - place.min()) / spread if spread > 0 else torch.full_like(place, 0.5)
    if setting.map == "cosine":
        smallness = (1 - torch.cos(math.pi * smallness)) / 2
    return (setting.largest_class + (setting.smallest_class - setting.largest_class) * smallness).float()


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
