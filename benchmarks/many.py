"""A million images: does memory grow with them, and how long does a finished store take to open?

Tiny pictures in one file go through the whole of stage 1 with a network that takes no time.

    python -m benchmarks.many [IMAGES]
"""

from __future__ import annotations

import json
import os
import struct
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.measured import machine
from cache import FeatureStore, Identity, ImageSource, digest_bytes
from stages.extraction import Backbone, PreprocessConfig, Progress, extract
from stages.records import COLUMNS, Records
from stages.records.splits import MADE

_SIDE, _DIM = 4, 64


def main(images: int) -> None:
    """Extract ``images`` pictures, print how memory went, and write ``results/many.json``."""
    memory: dict[int, float] = {}

    def watch(progress: Progress) -> None:
        tenth = progress.total // 10
        if progress.done // tenth > len(memory):
            memory[progress.done] = _megabytes()
            print(f"{progress.done:,} images: {memory[progress.done]:,.0f} MB", flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        records = _records(Path(scratch) / "pictures", images)
        before = _megabytes()
        started = time.perf_counter()
        store = extract(records, _trivial(), scratch, on_progress=watch)
        took = time.perf_counter() - started
        started = time.perf_counter()
        opened = FeatureStore.at(store.path)
        missing = opened.missing(records.digests)
        again = time.perf_counter() - started
    assert not missing
    sizes = list(memory.values())
    row = {
        "work": f"{images:,} pictures of {_SIDE} x {_SIDE} pixels",
        "images a second": images / took,
        "MB before, with the list of images": before,
        "MB after a tenth": sizes[0],
        "MB at the end": sizes[-1],
        "bytes an image, from a tenth to the end": (sizes[-1] - sizes[0]) * 1e6 / (0.9 * images),
        "seconds to open the finished store and find nothing missing": again,
        "machine": machine(),
        "date": date.today().isoformat(),
    }
    print(json.dumps(row, indent=2))
    Path(__file__).with_name("results").joinpath("many.json").write_text(json.dumps([row], indent=2) + "\n")


def _records(path: Path, images: int) -> Records:
    """Bitmaps that differ in their first pixels, one behind the other in one file."""
    size = 54 + 3 * _SIDE * _SIDE
    head = struct.pack("<2sIHHI", b"BM", size, 0, 0, 54) + struct.pack(
        "<IiiHHIIiiII", 40, _SIDE, _SIDE, 1, 24, 0, size - 54, 0, 0, 0, 0
    )
    uris, digests = [], []
    with path.open("wb") as file:
        for number in range(images):
            content = head + number.to_bytes(size - 54, "little")
            file.write(content)
            uris.append(ImageSource(str(path), stretch=(number * size, size)).uri)
            digests.append(digest_bytes(content))
    text = pa.nulls(images, pa.string())
    columns = dict.fromkeys(COLUMNS, text) | {
        "key": pa.array(map(str, range(images)), pa.string()),
        "uri": pa.array(uris, pa.string()),
        "digest": pa.array(digests, pa.binary(32)),
    }
    return Records(pa.table(columns), MADE)


def _trivial() -> Backbone:
    preprocess = PreprocessConfig().resolve(size=8, mean=(0, 0, 0), std=(1, 1, 1), resize="squash")
    identity = Identity({"backbone": "pixels", "preprocess": preprocess.identity()})
    return Backbone(
        "pixels", _DIM, identity, preprocess, lambda batch: batch[:, 0].reshape(-1, _DIM).astype(np.float32)
    )


def _megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
