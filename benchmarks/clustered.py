"""Synthetic embeddings of labelled images, made the same from a seed in any process. Needs nothing but NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_EACH = 10  # gallery rows of a class
_NOISE = 1.1  # of a vector around the centre of its class, in units of its spread; hits are about 80 % at 64 numbers
_AT_ONCE = 65_536

Vectors = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def clustered(rows: int, dim: int, classes: int, seed: int) -> tuple[Vectors, Labels]:
    """Vectors (rows, dim) of unit length around so many centres, and which centre each belongs to."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(dim).standard_normal((classes, dim), dtype=np.float32)
    labels = rng.permutation(rows) % classes
    vectors = np.empty((rows, dim), np.float32)
    for low in range(0, rows, _AT_ONCE):
        some = vectors[low : low + _AT_ONCE]
        rng.standard_normal(out=some, dtype=np.float32)
        some *= np.float32(_NOISE * (dim / 64) ** 0.25)
        some += centres[labels[low : low + _AT_ONCE]]
        some /= np.linalg.norm(some, axis=1, keepdims=True)
    return vectors, labels


@dataclass(frozen=True)
class Task:
    """A gallery and queries, each ``rows`` long, of the same classes."""

    gallery: Vectors
    gallery_labels: Labels
    queries: Vectors
    query_labels: Labels

    @classmethod
    def of(cls, queries: int, gallery: int, dim: int) -> Task:
        """The task of this size."""
        classes = max(1, gallery // _EACH)
        return cls(*clustered(gallery, dim, classes, 0), *clustered(queries, dim, classes, 1))
