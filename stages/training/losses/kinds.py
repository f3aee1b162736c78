"""The margin losses, a class of settings for each. Loads without torch; ``rules.py`` computes them.

Adding one is its class here, its name in ``MarginLosses``, and its rule in ``rules.py``. t is the angle between an
embedding and the prototype of its class, m the margin; each says what becomes of cos t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Tag

from cache.errors import SettingsError
from cache.settings import Settings, Within

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stages.training.losses.kernel import MarginSoftmax
    from stages.training.losses.rules import Rule


@dataclass(frozen=True)
class Ramp(Settings):
    """From ``start`` to ``end`` in a straight line over the whole training: ``scale = { start = 16, end = 30 }``.

    Args:
        start: the value at the first step.
        end: the value at the last step.
    """

    start: Annotated[float, Within("(-inf, inf)", "an end of a ramp")]
    end: Annotated[float, Within("(-inf, inf)", "an end of a ramp")]

    @property
    def extremes(self) -> tuple[float, float]:
        return self.start, self.end


_NUMBER, _RAMP = "a number", "a ramp"


def _which(value: Any) -> str:
    return _RAMP if isinstance(value, (dict, Ramp)) else _NUMBER


# The tags stand in pydantic's paths, where those with a space are not keys.
Scheduled: TypeAlias = Annotated[Annotated[float, Tag(_NUMBER)] | Annotated[Ramp, Tag(_RAMP)], Discriminator(_which)]


def value_at(setting: float | Ramp, share: float) -> float:
    """What ``setting`` is after ``share`` of the training, in [0, 1]; a plain number is always itself."""
    if not isinstance(setting, Ramp):
        return setting
    return setting.start + (setting.end - setting.start) * share


@dataclass(frozen=True)
class MarginByClassSize(Settings):
    """A larger margin for small classes: ``margin_rad = { smallest_class = 0.6, largest_class = 0.2 }``.

    Args:
        smallest_class: the margin of the class with the fewest training rows, in the unit of the setting it stands for.
        largest_class: the margin of the class with the most.
        map: between the two, ``cosine`` is half a cosine over the number of rows n (Schall et al., UniFEx), so that
            most classes of a long tail keep the large margin; ``quartic_root`` is a straight line over n^(-1/4) (Ha et
            al., Google landmark recognition 2020), which falls fast for the first rows.
    """

    smallest_class: float
    largest_class: float
    map: Literal["cosine", "quartic_root"] = "cosine"
    kind: Literal["by_class_size"] = "by_class_size"

    @property
    def extremes(self) -> tuple[float, float]:
        return self.smallest_class, self.largest_class


_SCHEDULED, _BY_CLASS_SIZE = "a number or a ramp", "by class size"


def _which_margin(value: Any) -> str:
    ramp = not isinstance(value, dict) or "start" in value or "end" in value
    return _SCHEDULED if ramp and not isinstance(value, MarginByClassSize) else _BY_CLASS_SIZE


MarginSetting: TypeAlias = Annotated[
    Annotated[Scheduled, Tag(_SCHEDULED)] | Annotated[MarginByClassSize, Tag(_BY_CLASS_SIZE)],
    Discriminator(_which_margin),
]


@dataclass(frozen=True)
class SampledConfig(Settings):
    """Compare with the batch's own classes and a ``share`` of all classes, in (0, 1]; all subcenters of each.

    Args:
        share: in (0, 1]; of 34,800 classes a tenth makes a step about six times as fast.
        least: never fewer classes than these, or all there are: with a few hundred, sampling saves little and costs
            accuracy.
        kind: which others. ``random`` ones take no time to find; each counts for one over the probability with which it
            is looked at, so that the loss is that of all classes but for noise. The ``hardest`` are those whose
            nearest subcenter is nearest to any embedding of the batch; finding them takes one matrix product
            of the batch with the whole table.

    Prototypes that a step does not look at are not read, moved or decayed.
    """

    share: Annotated[float, Within("(0, 1]", "the part of the classes that a step looks at")] = 0.1
    least: Annotated[int, Within("[1, inf]", "a number of classes")] = 1000
    kind: Literal["random", "hardest"] = "random"


Scale: TypeAlias = Annotated[Scheduled, Within("(0, inf)", "a factor on the cosines")]
Subcenters: TypeAlias = Annotated[int, Within("[1, inf]", "a number of prototypes a class")]
Precision: TypeAlias = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class MarginSoftmaxConfig(Settings):
    """The settings of every margin-softmax loss; a loss is a subclass with a ``kind``, its margins and its rule.

    Args:
        subcenters: prototypes a class, k; a class is as near as its nearest (Deng et al., Sub-center ArcFace, 2020).
        scale: the factor on the cosines, a number or a ramp over the training.
        label_smoothing: the share of the target that is spread over all classes, in [0, 1).
        sampled: compare with some of the classes only, for tens of thousands and more.
        precision: of the factors of the matrix products, which are summed in float32. With bfloat16 cosines are right
            to three digits, and half of the time is saved where the processor has instructions for it.
    """

    subcenters: Subcenters = 1
    scale: Scale = 30.0
    label_smoothing: Annotated[float, Within("[0, 1)", "the share spread over all classes")] = 0.0
    sampled: SampledConfig | None = None
    precision: Precision = "float32"

    def rule(self, class_sizes: Tensor, generator: torch.Generator) -> Rule:
        """What distinguishes the loss, for classes of ``class_sizes`` (C,) training rows; your own loss has its own."""
        from stages.training.losses.rules import rule_of

        return rule_of(self, class_sizes, generator)

    def build(
        self,
        dim: int,
        class_sizes: Tensor,
        generator: torch.Generator,
        group: torch.distributed.ProcessGroup | None = None,
    ) -> MarginSoftmax:
        """The loss of embeddings (B, ``dim``) for classes of ``class_sizes`` (C,) rows, drawn from ``generator``.

        The processes of a ``group`` share the classes out, and each has the same loss.

        >>> import torch
        >>> from stages.training import ArcFaceConfig
        >>> loss = ArcFaceConfig(margin_rad=0.3).build(4, torch.tensor([5, 5, 5]), torch.Generator().manual_seed(0))
        >>> loss(torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])).shape, loss.prototypes.shape
        (torch.Size([]), torch.Size([1, 3, 4]))
        """
        from stages.training.losses.kernel import MarginSoftmax

        if group is not None and self.sampled is not None:
            raise SettingsError("several processes share all classes out: leave loss.sampled out, or train in one")
        return MarginSoftmax(dim, len(class_sizes), self.rule(class_sizes, generator), self, generator, group)


_ANGLE = Within("[0, pi)", "an angle in radians (degrees * pi / 180)")
_COSINE = Within("[0, 1]", "a difference of cosines")
Angle: TypeAlias = Annotated[MarginSetting, _ANGLE]


@dataclass(frozen=True)
class NormFaceConfig(MarginSoftmaxConfig):
    """NormFace (Wang et al., ACM Multimedia 2017): cos t, what every other loss here is when its margin is 0."""

    kind: Literal["normface"] = "normface"


@dataclass(frozen=True)
class AngularConfig(MarginSoftmaxConfig):
    """A loss whose margin is an angle.

    Args:
        margin_rad: the margin, an angle in radians: a number, a ramp over the training, or by class size.
    """

    margin_rad: Angle = 0.5


@dataclass(frozen=True)
class ArcFaceConfig(AngularConfig):
    """ArcFace (Deng et al., CVPR 2019): cos(t + m); with ``subcenters`` above 1 Sub-center ArcFace (ECCV 2020)."""

    kind: Literal["arcface"] = "arcface"


@dataclass(frozen=True)
class CosineConfig(MarginSoftmaxConfig):
    """A loss whose margin is a difference of cosines.

    Args:
        margin_cos: the margin, a difference of cosines: a number, a ramp over the training, or by class size.
    """

    margin_cos: Annotated[MarginSetting, _COSINE] = 0.35


@dataclass(frozen=True)
class CosFaceConfig(CosineConfig):
    """CosFace (Wang et al., CVPR 2018): cos t - m."""

    kind: Literal["cosface"] = "cosface"


@dataclass(frozen=True)
class SphereFaceConfig(MarginSoftmaxConfig):
    """SphereFace (Liu et al., CVPR 2017): cos(m t), continued so that it falls.

    Its factor was 4; the scale is that of SphereFace-R (Liu et al., TPAMI 2022), whose factor is about 1.5. A ramp from
    1 does the work of their annealing.

    Args:
        margin_factor: what the target's angle is multiplied by, at least 1; 1 is no margin.
    """

    kind: Literal["sphereface"] = "sphereface"
    margin_factor: Annotated[MarginSetting, Within("[1, inf)", "what the angle is multiplied by")] = 1.5


@dataclass(frozen=True)
class LiArcFaceConfig(AngularConfig):
    """Li-ArcFace, for small embeddings: 1 - 2 (t + m) / pi, and of the others too (Li et al., AirFace, ICCVW 2019)."""

    kind: Literal["li_arcface"] = "li_arcface"
    margin_rad: Angle = 0.45


@dataclass(frozen=True)
class ElasticArcFaceConfig(AngularConfig):
    """ArcFace; each row draws its margin, normal around ``margin_rad``, every step (Boutros et al., CVPRW 2022).

    Args:
        deviation_rad: the standard deviation of the margin, in radians.
    """

    kind: Literal["elastic_arcface"] = "elastic_arcface"
    deviation_rad: Annotated[float, _ANGLE] = 0.0125


@dataclass(frozen=True)
class ElasticCosFaceConfig(CosineConfig):
    """CosFace; each row draws its margin, normal around ``margin_cos``, every step (Boutros et al., CVPRW 2022).

    Args:
        deviation_cos: the standard deviation of the margin, a difference of cosines.
    """

    kind: Literal["elastic_cosface"] = "elastic_cosface"
    deviation_cos: Annotated[float, _COSINE] = 0.0125


@dataclass(frozen=True)
class AdaCosConfig(MarginSoftmaxConfig):
    """AdaCos (Zhang et al., CVPR 2019): no margin, and a scale that training chooses.

    The scale begins at sqrt(2) log(C - 1) and follows the batches, never below 0.98. A ``scale`` is refused.

    Args:
        dynamic: let the scale follow the batches; false keeps it where it begins.
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


@dataclass(frozen=True)
class CurricularFaceConfig(AngularConfig):
    """CurricularFace (Huang et al., CVPR 2020): ArcFace, and hard other classes count for more as training succeeds."""

    kind: Literal["curricularface"] = "curricularface"


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
    margin: Annotated[MarginSetting, Within("[0, 1]", "both radians and a difference of cosines")] = 0.4
    concentration: Annotated[float, Within("[0, inf)")] = 0.333
    statistics_rate: Annotated[float, Within("(0, 1]", "the share of a new batch")] = 0.01


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
    norm_weight: Annotated[float, Within("[0, inf)")] = 35.0

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


MarginLosses: TypeAlias = (
    AdaCosConfig
    | AdaFaceConfig
    | ArcFaceConfig
    | CosFaceConfig
    | CurricularFaceConfig
    | ElasticArcFaceConfig
    | ElasticCosFaceConfig
    | LiArcFaceConfig
    | MagFaceConfig
    | NormFaceConfig
    | SphereFaceConfig
)
