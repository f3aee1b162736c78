"""Work that is killed in the middle: for :class:`tests.forks.Forks`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from cache import atomic, storage
from cache.storage import LocalStorage
from stages.ranking import unit_length
from stages.retrieval import GalleryIndex, IvfFlatIndexConfig, IvfPqIndexConfig, MilvusIndex, MilvusIndexConfig
from stages.retrieval.gallery_rows import GalleryRows
from stages.retrieval.indexes import milvus, on_disk
from tests.toys.stores import fill, names, open_store

Write = Callable[[Path, bytes | memoryview], bool | None]


def fill_until_killed(folder: str, after: int) -> None:
    """Write ten rows to a store in ``folder``, and die before the write behind ``after`` others."""
    left = iter(range(after))

    def dying(write: Write) -> Write:
        def until_killed(path: Path, content: bytes | memoryview) -> bool | None:
            if path.suffix != ".json" and next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return write(path, content)

        return until_killed

    storage.replace_bytes = dying(atomic.replace_bytes)  # type: ignore[attr-defined, assignment]
    storage.create_bytes = dying(atomic.create_bytes)  # type: ignore[attr-defined, assignment]
    fill(open_store(Path(folder)), names(*range(10)))


class _Killed(LocalStorage):
    left = 0

    def _change(self) -> None:
        _Killed.left -= 1
        if _Killed.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def put(self, key: str, content: bytes | memoryview) -> None:
        self._change()
        super().put(key, content)

    def delete(self, key: str) -> None:
        self._change()
        super().delete(key)


def save_until_killed(folder: str, change: int) -> None:
    """Save an index of sixty rows in ``folder``, and die instead of the change of that number."""
    _Killed.left = change
    rows = unit_length(np.random.default_rng(0).normal(size=(60, 4)))
    config = IvfFlatIndexConfig(lists=3, probes=2)
    GalleryIndex.build(rows, [str(row) for row in range(60)], "n" * 64, config).save(_Killed(folder))


def build_until_killed(folder: str, change: int) -> None:
    """Build an index of 700 rows in ``folder`` on disk, in three shards, and die instead of the write of that number.

    Its first is that of what it learned, then come the shards.
    """
    _Killed.left, on_disk.SHARD_ROWS = change, 256
    on_disk.LocalStorage = _Killed  # type: ignore[attr-defined]
    rows = unit_length(np.random.default_rng(0).normal(size=(700, 8)))
    config = IvfPqIndexConfig(bytes=4, lists=5, probes=5, on_disk=True)
    on_disk.build_on_disk(folder, rows, [str(row) for row in range(700)], "n" * 64, config)


def load_until_killed(folder: str, call: int) -> None:
    """Load 70 rows into a database in ``folder``, 16 a call, and die instead of the upsert of that number."""
    from pymilvus import MilvusClient

    milvus.ROWS_A_CALL, left = 16, iter(range(1, call))
    upsert = MilvusClient.upsert

    def dying(*arguments: object, **named: object) -> object:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return upsert(*arguments, **named)

    MilvusClient.upsert = dying
    rows = unit_length(np.random.default_rng(0).normal(size=(70, 4)))
    keys = [str(row) for row in range(70)]
    table = pa.table({"key": keys, "uri": keys, "digest": [b""] * 70, "label": keys})
    config = MilvusIndexConfig(f"{folder}/index.db")
    MilvusIndex.fill(config, rows, GalleryRows.from_table(table), "n" * 64)
