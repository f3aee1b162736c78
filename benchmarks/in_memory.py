"""A store of features whose rows are in memory and of unit length: scoring is measured, not reading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.clustered import Labels, Task
from cache import Failure, Identity
from stages.ranking import unit_length
from stages.records import COLUMNS, Records


class InMemory:
    """A store of features whose rows are in memory; the digest of a row is its number."""

    name, path, views = "memory", Path("memory"), 1
    identity = Identity({"benchmark": "clustered"})

    def __init__(self, task: Task) -> None:
        self._parts = unit_length(task.gallery), unit_length(task.queries)
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
