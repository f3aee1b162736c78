"""Distances of embeddings of unit length, from their cosines and back."""

from __future__ import annotations

import torch
from torch import Tensor

from cache.errors import SettingsError
from stages.training.losses.settings import Scheduled, ends

FARTHEST = 2.0
"""The distance of opposite vectors."""


def distance_of(cosine: Tensor) -> Tensor:
    """The distance of two vectors of unit length with ``cosine``, any shape; where it is 0 its slope is 0 too."""
    return (2 - 2 * cosine).clamp_min(4 * torch.finfo(cosine.dtype).eps).sqrt()


def check_dist(name: str, setting: Scheduled) -> None:
    """Raise ValueError unless ``setting`` is a distance of vectors of unit length."""
    if not all(0 <= value <= FARTHEST for value in ends(setting)):
        raise SettingsError(f"{name} is a distance of embeddings of unit length, in [0, 2], got {setting}")
