"""A setting that moves while a head is trained: margins and scales that start easy and end hard."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import Discriminator, Tag

from cache.errors import SettingsError


@dataclass(frozen=True)
class Ramp:
    """From ``start`` to ``end`` in a straight line over the whole training: ``scale = { start = 16, end = 30 }``."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    start: float
    end: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise SettingsError(f"a ramp goes from one finite number to another, got {self.start} to {self.end}")


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


def ends(setting: float | Ramp) -> tuple[float, float]:
    """Both ends of ``setting``, to be checked: a ramp between two allowed numbers passes allowed ones only."""
    return (setting.start, setting.end) if isinstance(setting, Ramp) else (setting, setting)
