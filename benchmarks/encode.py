"""``Encoder.encode`` of a folder against ``extract`` of the same photographs, in turn, in one process a measurement.

    python -m benchmarks.encode [--images 320] [--repeats 3]

Photographs are those of PERMAFROST_DATA/grocery; EfficientNet-Lite0 with its weights. The rate of ``extract`` is from
records with their digests to a committed store, that of the encoder from paths to vectors of unit length.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.extraction import BATCH
from benchmarks.measured import Row, write

_TARGET = 0.95


def main() -> None:
    """Run one measurement (``--measure``), or both sides in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", choices=["encode", "extract"])
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(_rate(arguments.measure, arguments.images)))
        return
    rates: dict[str, list[float]] = {"encode": [], "extract": []}
    for _ in range(arguments.repeats):
        for side, measured in rates.items():
            command = [sys.executable, "-m", "benchmarks.encode", "--measure", side, "--images", str(arguments.images)]
            measured.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    ours, theirs = (statistics.median(rates[side]) for side in ("encode", "extract"))
    limit = f"medians of {arguments.repeats}, {arguments.images} photographs"
    write(
        "encode",
        [Row("Encoder.encode of a folder", ours, "extract", theirs, "images/s", ours / theirs, _TARGET, limit)],
    )


def _rate(side: str, count: int) -> float:
    """Images a second, after a warm-up of one batch."""
    from pipeline.encoder import Encoder
    from stages.datasets import TableConfig
    from stages.extraction import BundledConfig, Embedder, extract_all, load_backbone
    from stages.records import read_records

    folder = Path(os.environ["PERMAFROST_DATA"]) / "grocery" / "images"
    paths = sorted(folder.rglob("*.jpg"))
    backbone = load_backbone(BundledConfig())
    with tempfile.TemporaryDirectory() as scratch:
        photos = Path(scratch, "photos")
        photos.mkdir()
        for number in range(count):
            (photos / f"{number:05}.jpg").symlink_to(paths[number * len(paths) // count])
        if side == "encode":
            encoder = Encoder(Embedder([backbone]))
            encoder.encode(sorted(photos.iterdir())[:BATCH])
            started = time.perf_counter()
            encoder.encode(photos)
            return count / (time.perf_counter() - started)
        Path(scratch, "photos.csv").write_text("path\n" + "".join(f"photos/{path.name}\n" for path in photos.iterdir()))
        records = read_records(TableConfig(path=f"{scratch}/photos.csv", label=()))
        extract_all(records.take(np.arange(BATCH)), [backbone], Path(scratch, "warm"), batch_size=BATCH)
        started = time.perf_counter()
        extract_all(records, [backbone], Path(scratch, "timed"), batch_size=BATCH)
        return count / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
