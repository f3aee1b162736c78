"""Unit length, cosines and angles with slopes that stay finite: at the zero vector, and where the angle is 0 or pi."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# The slope of the angle by the cosine is infinite at 1 and -1: both are taken one step of float32 inside.
INSIDE = 1 - torch.finfo(torch.float32).eps


def lengths_of(vectors: Tensor) -> Tensor:
    """The lengths (n,) of ``vectors`` (n, E), in their dtype; right also where a square would overflow or vanish."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)
    return lengths.clamp(max=torch.finfo(vectors.dtype).max).to(vectors.dtype)


def normalize(vectors: Tensor) -> Tensor:
    """``vectors`` (n, E) divided by their lengths; a zero vector stays zero and gets a zero gradient."""
    length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors * torch.where(length > 0, length, torch.inf).reciprocal()


def angle_of(cosine: Tensor) -> Tensor:
    """The angle of ``cosine``, any shape; at 1 and beyond it is 0.0005 and its slope is 0."""
    return cosine.clamp(-INSIDE, INSIDE).acos()


def sine_of(cosine: Tensor) -> Tensor:
    """The sine of the angle of ``cosine``, any shape, as :func:`angle_of` takes it."""
    return (1 - cosine.clamp(-INSIDE, INSIDE).square()).sqrt()


def add_angle(cosine: Tensor, margin_rad: float | Tensor) -> Tensor:
    """cos(t + margin) for ``cosine`` = cos(t); the shapes of ``cosine`` and ``margin_rad`` broadcast.

    Where t + margin would pass pi the cosine would grow again: there cos(t) - margin * sin(margin) is taken.

    >>> import math
    >>> round(math.degrees(math.acos(add_angle(torch.tensor(math.cos(math.radians(50))), math.radians(20)))), 3)
    70.0
    """
    # cos(t + m) = cos t cos m - sin t sin m, and t + m < pi where cos t > cos(pi - m) = -cos m.
    if isinstance(margin_rad, Tensor):
        margin_rad = margin_rad.to(cosine.dtype)
        along, across = margin_rad.cos(), margin_rad.sin()
        turned = cosine * along - sine_of(cosine) * across
        return torch.where(cosine > -along, turned, cosine - margin_rad * across)
    if margin_rad == 0:
        return cosine
    turned = cosine * math.cos(margin_rad) - sine_of(cosine) * math.sin(margin_rad)
    return torch.where(cosine > -math.cos(margin_rad), turned, cosine - margin_rad * math.sin(margin_rad))
