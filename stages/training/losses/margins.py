"""Rules with a margin: one number, a ramp over the training, or one for each class by its size."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cache.errors import SettingsError
from stages.training.losses.rule import Rule
from stages.training.losses.settings import MarginByClassSize, MarginSetting, value_at


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
        """See :class:`Rule`."""
        self.margin = 0.0 if isinstance(self.setting, MarginByClassSize) else value_at(self.setting, share)

    def margin_of(self, labels: Tensor) -> float | Tensor:
        """The margin of rows with ``labels``: one number, or a tensor of their shape."""
        return self.margin if self.by_class is None else self.by_class[labels]


def margins_of(setting: MarginByClassSize, class_sizes: Tensor) -> Tensor:
    """The margins (C,), float32, of classes of ``class_sizes`` (C,) rows; the middle of the two if all are equal.

    Raises:
        ValueError: a class without rows.

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
