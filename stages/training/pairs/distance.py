"""Distances of embeddings of unit length, from their cosines and back."""

from __future__ import annotations

import torch
from torch import Tensor


def distance_of(cosine: Tensor) -> Tensor:
    """The distance of two vectors of unit length with ``cosine``, any shape; where it is 0 its slope is 0 too."""
    return (2 - 2 * cosine).clamp_min(4 * torch.finfo(cosine.dtype).eps).sqrt()
