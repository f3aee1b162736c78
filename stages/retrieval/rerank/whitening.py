"""PCA whitening (Jégou and Chum, Negative evidences and co-occurrences, 2012), learned on the training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from stages.ranking.nearest import Rows, nearest_rows
from stages.ranking.normalize import Vectors, unit_length

_LEAST = 1e-6  # of the largest variance: what varies less is rounding


@dataclass(frozen=True)
class WhiteningConfig:
    """Vectors less the training mean, along the principal axes of the training vectors, each over its spread.

    Args:
        power: 1 makes every axis vary alike, 0 is PCA without whitening.
        dim: axes that are kept; 0 keeps all.
    """

    kind: Literal["whitening"] = "whitening"
    power: float = 1.0
    dim: int = 0

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    label: ClassVar[str] = "whitening"

    def __post_init__(self) -> None:
        if not 0 <= self.power <= 1:
            raise ValueError(f"power is how much is whitened, in [0, 1], got {self.power}")
        if self.dim < 0:
            raise ValueError(f"dim is a number of axes, or 0 for all, got {self.dim}")

    def ranked(self, gallery: Vectors, queries: Vectors, itself: Rows, k: int, train: Vectors) -> Rows:
        """The rows (Q, k) of the ``gallery`` (G, E) nearest to ``queries`` (Q, E), whitened by ``train`` (n, E)."""
        if len(train) < 2:
            raise ValueError(f"whitening is learned from training images, at least 2, got {len(train)}")
        mean = train.mean(axis=0, dtype=np.float64)
        variance, axes = np.linalg.eigh(np.cov(train, rowvar=False, dtype=np.float64).reshape(len(mean), len(mean)))
        axes_used = np.flatnonzero(variance > _LEAST * variance.max())[::-1][: self.dim or None]
        turn = (axes[:, axes_used] * variance[axes_used] ** (-self.power / 2)).astype(np.float32)
        shift = (mean @ turn).astype(np.float32)
        return nearest_rows(unit_length(gallery @ turn - shift), unit_length(queries @ turn - shift), k, itself)
