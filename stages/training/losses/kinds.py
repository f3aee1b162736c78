"""The margin losses, a class of settings for each. Loads without torch; ``rules.py`` computes them.

Adding one is its class here, its name in ``MarginLosses``, and its rule in ``rules.py``. t is the angle between an
embedding and the prototype of its class, m the margin; each says what becomes of cos t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from cache.errors import SettingsError
from cache.settings import Within
from stages.training.losses.settings import MarginSetting, MarginSoftmaxConfig, Scheduled

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
