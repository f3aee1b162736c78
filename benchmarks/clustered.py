"""Synthetic embeddings of labelled images, made the same from a seed in any process; and a store that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cache import Failure, Identity
from stages.records import COLUMNS, Records

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


class InMemory:
    """A store of features whose rows are in memory; the digest of a row is its number."""

    name, path, views = "memory", Path("memory"), 1
    identity = Identity({"benchmark": "clustered"})

    def __init__(self, task: Task) -> None:
        self._parts = task.gallery, task.queries
        self.dim, self.dtype = task.gallery.shape[1], np.dtype(np.float32)
        self.fingerprint = self.identity.fingerprint

    def records(self, part: int, labels: Labels) -> Records:
        """The records of the gallery (0) or of the queries (1)."""
        count = len(labels)
        text = pa.nulls(count, pa.string())
        numbers = np.zeros((count, 4), ">u8")
        numbers[:, 0], numbers[:, 3] = part, np.arange(count)
        columns = dict.fromkeys(COLUMNS, text) | {
            "key": pa.array([f"{part}-{row}" for row in range(count)]),
            "digest": pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), count, [None, pa.py_buffer(numbers)]),
            "label": pa.array(labels.astype(str)),
        }
        return Records(pa.table(columns), {})

    def digests(self) -> list[bytes]:
        """Not asked for."""
        raise NotImplementedError

    def usable(self, digests: Sequence[bytes]) -> npt.NDArray[np.bool_]:
        """Every image has a row."""
        return np.ones(len(digests), np.bool_)

    def failures(self, digests: Sequence[bytes] | None = None) -> list[Failure]:  # noqa: ARG002
        """None."""
        return []

    def absent(self, digests: Sequence[bytes]) -> list[bytes]:  # noqa: ARG002
        """None."""
        return []

    def read(self, digests: Sequence[bytes]) -> npt.NDArray[np.generic]:
        """The rows of ``digests``: a view where they are a whole part in its order, as the benchmark asks for them."""
        numbers = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 4)
        part = self._parts[int(numbers[0, 0])]
        rows = numbers[:, 3].astype(np.int64)
        return part if np.array_equal(rows, np.arange(len(part))) else part[rows]

    def read_views(self, digests: Sequence[bytes]) -> npt.NDArray[np.generic]:
        """Not asked for."""
        raise NotImplementedError
