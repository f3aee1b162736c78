"""The miners, a class of settings for each: which of the pairs a loss looks at. Loads without torch.

Adding one is its class here, its name in ``MinerConfig``, and its case in ``miners.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from cache.errors import SettingsError
from cache.settings import Settings

FARTHEST = 2.0
"""The distance of opposite vectors."""


@dataclass(frozen=True)
class AllConfig(Settings):
    """No miner: every pair, or every triplet. The losses that take it have ways of their own that list none of them."""

    kind: Literal["all"] = "all"


@dataclass(frozen=True)
class DistanceWeightedConfig(Settings):
    """Every positive pair with one negative, drawn with a weight of 1 / q(d), q the density of distances on the sphere.

    So negatives come from all distances equally (Wu et al., Sampling matters, ICCV 2017). q(d) is in proportion to
    d^(E-2) (1 - d^2/4)^((E-3)/2). At hundreds of dimensions it spans more powers of ten than a number can hold: weights
    are logarithms until the largest of a row is 1.

    Args:
        nearest_dist: a negative nearer than this is weighed as if it were there.
        farthest_dist: one that is farther is never drawn, for a loss will not look at it.
    """

    kind: Literal["distance_weighted"] = "distance_weighted"
    nearest_dist: float = 0.5
    farthest_dist: float = 1.4

    def __post_init__(self) -> None:
        if not 0 < self.nearest_dist < self.farthest_dist < FARTHEST:
            raise SettingsError(
                "nearest_dist and farthest_dist are distances of embeddings of unit length, 0 < nearest_dist < "
                f"farthest_dist < 2, got {self.nearest_dist} and {self.farthest_dist}"
            )


@dataclass(frozen=True)
class HardConfig(Settings):
    """Every row with its farthest positives and its nearest negatives, each with each (Hermans et al., 2017).

    Args:
        positives: how many of the farthest; 0 takes all, so that only negatives are hard.
        negatives: how many of the nearest.
    """

    kind: Literal["hard"] = "hard"
    positives: int = 1
    negatives: int = 1

    def __post_init__(self) -> None:
        if self.positives < 0:
            raise SettingsError(
                f"positives is how many of the farthest, at least 1, or 0 for all, got {self.positives}"
            )
        if self.negatives < 1:
            raise SettingsError(f"negatives is how many of the nearest, at least 1, got {self.negatives}")


@dataclass(frozen=True)
class SemiHardConfig(Settings):
    """Every positive pair (a, p) with the nearest negative n of which d(a, p) < d(a, n) < d(a, p) + margin.

    A pair that has none is left out (Schroff et al., FaceNet, CVPR 2015).

    Args:
        margin_dist: the margin, a distance; by default that of the loss.
    """

    kind: Literal["semi_hard"] = "semi_hard"
    margin_dist: float | None = None

    def __post_init__(self) -> None:
        _check_own_margin(self.margin_dist)


@dataclass(frozen=True)
class EasyPositivesConfig(Settings):
    """Every row with its nearest positive, and with one negative (Xuan et al., WACV 2020).

    A class may hold several looks, and a row need only be near one.

    Args:
        negatives: ``semi_hard`` takes the nearest that is farther than the positive, but not by the margin; ``hard``
            takes the nearest.
        margin_dist: the margin of semi-hard ones, a distance; by default that of the loss.
    """

    kind: Literal["easy_positives"] = "easy_positives"
    negatives: Literal["semi_hard", "hard"] = "semi_hard"
    margin_dist: float | None = None

    def __post_init__(self) -> None:
        if self.negatives not in ("semi_hard", "hard"):
            raise SettingsError(f"negatives is semi_hard or hard, got {self.negatives!r}")
        _check_own_margin(self.margin_dist)


MinerConfig: TypeAlias = Annotated[
    DistanceWeightedConfig | EasyPositivesConfig | HardConfig | SemiHardConfig, Field(discriminator="kind")
]


AllOrMinedConfig: TypeAlias = Annotated[
    AllConfig | DistanceWeightedConfig | EasyPositivesConfig | HardConfig | SemiHardConfig, Field(discriminator="kind")
]


def _check_own_margin(margin_dist: float | None) -> None:
    if margin_dist is not None and not 0 < margin_dist <= FARTHEST:
        raise SettingsError(f"margin_dist is a distance of embeddings of unit length, in (0, 2], got {margin_dist}")
