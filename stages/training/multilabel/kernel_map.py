"""Rows as their likeness to landmarks: a curved boundary becomes a straight one, for a regression to find."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.training.closed_form.eigen import descending

_SINGULAR = 1e-10  # of the largest eigenvalue: what float64 leaves of zero


def likeness(rows: Tensor, landmarks: Tensor, width: float) -> Tensor:
    """exp(-|x - y|^2 / (2 width^2)) (n, M) of ``rows`` (n, D) and ``landmarks`` (M, D), all of unit length."""
    return torch.exp((rows @ landmarks.T - 1) / width**2)


def whitening_of(landmarks: Tensor, width: float) -> Tensor:
    """The matrix (M, m) that turns likenesses into coordinates whose products they are (Nystroem's map).

    Of the landmarks themselves the products are the likenesses, exactly; of others they are the nearest that m
    coordinates can have.
    """
    values, vectors = descending(likeness(landmarks, landmarks, width).double())
    kept = int((values > _SINGULAR * values[0]).sum())
    return vectors[:, :kept] / values[:kept].sqrt()


def spread_rows(count: int, most: int) -> Tensor:
    """The numbers of at most ``most`` of ``count`` rows, at equal distances."""
    if count <= most:
        return torch.arange(count)
    return (torch.arange(most, dtype=torch.float64) * (count / most)).long()
