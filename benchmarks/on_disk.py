"""Build ``ivf_pq`` on disk from rows that are drawn as they are read, and measure memory, disk and time.

``make bench-on-disk ROWS=2000000``: the rows are a hundred thousand clusters of 64 numbers; each million takes 250 MB
as float32, which memory never holds.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.ranking import unit_length
from stages.retrieval import GalleryIndex, IvfPqIndexConfig
from stages.retrieval.indexes.on_disk import build_on_disk

DIM, CLUSTERS = 64, 100_000
CONFIG = IvfPqIndexConfig(bytes=16, on_disk=True)


class Drawn:
    """``rows`` vectors around centres; each follows from its number."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.centres = np.random.default_rng(0).standard_normal((CLUSTERS, DIM), np.float32)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, 64)."""
        return self.rows, DIM

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        noise = np.sin(rows[:, None] * np.arange(1, DIM + 1) * 12.9898).astype(np.float32)
        return unit_length(self.centres[rows * 7919 % CLUSTERS] + noise)


def resident() -> float:
    """Anonymous memory of this process in MB: what is mapped from files is not counted."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1000


def main(rows: int) -> None:
    """Print what a build of ``rows`` takes."""
    keys = [f"{row:012d}" for row in range(rows)]
    before = resident()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        index = build_on_disk(folder, Drawn(rows), keys, "drawn", CONFIG)
        seconds = time.perf_counter() - started
        disk = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        print(
            f"{rows:,} rows x {DIM}: {seconds:.0f} s, {disk / 1e6:,.0f} MB on disk, {index.bytes_a_row:.1f} bytes a row"
        )
        print(
            f"memory: {before:,.0f} MB with the keys alone, {resident():,.0f} MB with the index, {peak:,.0f} MB at most"
        )
        queries = Drawn(rows)[np.arange(0, rows, rows // 200)]
        started = time.perf_counter()
        index.search(queries, 10)
        print(f"search: {(time.perf_counter() - started) / len(queries) * 1e3:.2f} ms a query")
        if rows <= 2_000_000 and "--compare" in sys.argv:
            whole = GalleryIndex.build(Drawn(rows), keys, "drawn", replace(CONFIG, on_disk=False))
            ours, theirs = index.search(queries, 10), whole.search(queries, 10)
            same = np.array_equal(ours[0], theirs[0]) and np.array_equal(ours[1], theirs[1])
            print(f"equal to the index in memory: {same}; {resident():,.0f} MB with both")


if __name__ == "__main__":
    main(int(sys.argv[1]))
