"""A margin as a configuration has it: one number, a ramp over the training, or one for each class by its size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import torch
from pydantic import Discriminator, Tag
from torch import Tensor

from cache.errors import SettingsError
from stages.training.losses.rule import Rule
from stages.training.losses.schedule import Scheduled, ends, value_at


@dataclass(frozen=True)
class MarginByClassSize:
    """A larger margin for small classes: ``margin_rad = { smallest_class = 0.6, largest_class = 0.2 }``.

    Args:
        smallest_class: the margin of the class with the fewest training rows, in the unit of the setting it stands for.
        largest_class: the margin of the class with the most.
        map: between the two, ``cosine`` is half a cosine over the number of rows n (Schall et al., UniFEx), so that
            most classes of a long tail keep the large margin; ``quartic_root`` is a straight line over n^(-1/4) (Ha et
            al., Google landmark recognition 2020), which falls fast for the first rows.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    smallest_class: float
    largest_class: float
    map: Literal["cosine", "quartic_root"] = "cosine"
    kind: Literal["by_class_size"] = "by_class_size"

    def __post_init__(self) -> None:
        if self.map not in ("cosine", "quartic_root"):
            raise SettingsError(f"map is cosine or quartic_root, got {self.map!r}")

    def of_sizes(self, class_sizes: Tensor) -> Tensor:
        """The margins (C,), float32, of classes of ``class_sizes`` (C,) rows; the middle of the two if all are equal.

        Raises:
            ValueError: a class without rows.

        >>> MarginByClassSize(smallest_class=0.6, largest_class=0.2).of_sizes(torch.tensor([3, 10, 17]))
        tensor([0.6000, 0.4000, 0.2000])
        """
        if not (class_sizes > 0).all():
            empty = int((class_sizes <= 0).nonzero()[0])
            raise SettingsError(
                f"a margin by class size needs at least one row in each class, class {empty} has "
                f"{int(class_sizes[empty])}; leave it out, or give one margin for all"
            )
        sizes = class_sizes.double()
        place = sizes.neg() if self.map == "cosine" else sizes.pow(-0.25)  # the smallest class comes out highest
        spread = place.max() - place.min()
        smallness = (place - place.min()) / spread if spread > 0 else torch.full_like(place, 0.5)
        if self.map == "cosine":
            smallness = (1 - torch.cos(math.pi * smallness)) / 2
        return (self.largest_class + (self.smallest_class - self.largest_class) * smallness).float()


_SCHEDULED, _BY_CLASS_SIZE = "a number or a ramp", "by class size"


def _which(value: Any) -> str:
    """Which of the two ``value`` means: the one that has a key of it."""
    ramp = not isinstance(value, dict) or "start" in value or "end" in value
    return _SCHEDULED if ramp and not isinstance(value, MarginByClassSize) else _BY_CLASS_SIZE


MarginSetting: TypeAlias = Annotated[
    Annotated[Scheduled, Tag(_SCHEDULED)] | Annotated[MarginByClassSize, Tag(_BY_CLASS_SIZE)], Discriminator(_which)
]


class MarginRule(Rule):
    """A rule with a margin, whose ``class_sizes`` (C,) are the training rows of each class, in label order."""

    by_class: Tensor | None

    def __init__(self, setting: MarginSetting, class_sizes: Tensor) -> None:
        super().__init__()
        self.setting = setting
        by_class = setting.of_sizes(class_sizes) if isinstance(setting, MarginByClassSize) else None
        self.register_buffer("by_class", by_class, persistent=False)  # it follows from the configuration
        self.at(0.0)

    def at(self, share: float) -> None:
        """See :class:`Rule`."""
        self.margin = 0.0 if isinstance(self.setting, MarginByClassSize) else value_at(self.setting, share)

    def margin_of(self, labels: Tensor) -> float | Tensor:
        """The margin of rows with ``labels``: one number, or a tensor of their shape."""
        return self.margin if self.by_class is None else self.by_class[labels]


def extremes(setting: MarginSetting) -> tuple[float, float]:
    """The two numbers that every margin of ``setting`` lies between."""
    if isinstance(setting, MarginByClassSize):
        return setting.smallest_class, setting.largest_class
    return ends(setting)
