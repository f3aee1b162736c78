"""Eigenvectors in a stated order and sign, shrinkage, and the inverse root of a covariance."""

from __future__ import annotations

import torch
from torch import Tensor

from cache.errors import SettingsError

SINGULAR = 1e-7  # of the largest eigenvalue: what rounding leaves of zero in sums of float32 products


def descending(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (D,), largest first, and the eigenvectors (D, D) in columns, the largest number of each positive."""
    values, vectors = torch.linalg.eigh(symmetric)
    values, vectors = values.flip(0), vectors.flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return values, vectors * torch.where(largest < 0, -1.0, 1.0).to(vectors.dtype)


def shrunk(covariance: Tensor, shrinkage: float) -> Tensor:
    """(1 - s) S + s (tr S / D) I of the covariance S (D, D) and the ``shrinkage`` s in [0, 1]."""
    level = covariance.trace() / len(covariance)
    return (1 - shrinkage) * covariance + shrinkage * level * torch.eye(len(covariance), dtype=covariance.dtype)


def inverse_root(covariance: Tensor, *, least: float | None = None) -> Tensor:
    """A matrix R (D, D) with R' S R = I for the ``covariance`` S (D, D): its inverse root times a rotation.

    Raises ValueError where S is singular; with ``least``, its eigenvalues are that share of their mean or more.
    """
    values, vectors = descending(covariance)
    if least is not None:
        values = values.clamp(min=least * float(values.mean()))
    elif not values[-1] > SINGULAR * values[0]:
        flat = int((values <= SINGULAR * values[0]).sum())
        raise SettingsError(f"nothing varies within classes in {flat:,} of {len(values):,} directions; raise shrinkage")
    return vectors * values.rsqrt()
