"""Four workers of a Ray cluster against one, with a backbone that sleeps, and what the driver takes for each chunk.

The cluster is this machine's alone. Rates are of the time in which all workers are there: starting them is not in it.
Prints a line a measurement and writes ``results/ray_scale.json``.

    python -m benchmarks.ray_scale [CHUNKS] [MANY]
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from cache import Identity
from stages.datasets import FolderConfig
from stages.extraction import Backbone, PreprocessConfig, Progress, RayExecutor, extract_all
from stages.ray_cluster import RayCluster
from stages.records import Records, read_records

_CHUNK_ROWS = 8
_SLEEP_SECONDS = 0.05


def asleep(batch: npt.NDArray[np.uint8], *, seconds: float) -> npt.NDArray[np.float32]:
    """The mean colour of each image (B, 3), after a pause."""
    time.sleep(seconds)
    means: npt.NDArray[np.float32] = batch.mean(axis=(2, 3), dtype=np.float32)
    return means


def main(chunks: int, many: int) -> int:
    """Measure, and say whether four workers are 3.6 times one and the driver takes under 2 ms a chunk."""
    import ray

    with tempfile.TemporaryDirectory() as scratch:
        records = drawn(Path(scratch) / "images", max(chunks * _CHUNK_ROWS, many))
        first = records.take(np.arange(chunks * _CHUNK_ROWS))
        rows = []
        for workers in (1, 4):
            ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
            rows.append(measured(first, Path(scratch) / str(workers), workers, _CHUNK_ROWS, _SLEEP_SECONDS))
            print(json.dumps(rows[-1]), flush=True)
            ray.shutdown()
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        rows.append(measured(records.take(np.arange(many)), Path(scratch) / "many", 2, 1, 0.0))
        print(json.dumps(rows[-1]), flush=True)
        ray.shutdown()
    times = rows[1]["chunks_a_second"] / rows[0]["chunks_a_second"]
    summary = {
        "four workers against one": round(times, 2),
        "rows": rows,
        "machine": f"{platform.machine()}, {platform.system()}",
        "date": date.today().isoformat(),
    }
    print(f"four workers: {times:.2f} times one")
    Path(__file__).with_name("results").mkdir(exist_ok=True)
    Path(__file__).with_name("results").joinpath("ray_scale.json").write_text(json.dumps(summary, indent=2) + "\n")
    return 0 if times >= 3.6 and rows[1]["driver_ms_a_chunk"] < 2 else 1


def measured(records: Records, folder: Path, workers: int, chunk_rows: int, seconds: float) -> dict[str, float]:
    """Extract ``records`` with so many workers: rate, processor time and memory of this process, the driver."""
    from benchmarks import ray_scale  # by the name that a worker imports

    preprocess = PreprocessConfig().resolve(size=4, mean=(0, 0, 0), std=(1, 1, 1))
    identity = Identity({"backbone": "asleep", "preprocess": preprocess.identity()})
    backbone = Backbone("asleep", 3, identity, preprocess, partial(ray_scale.asleep, seconds=seconds))
    begun: list[tuple[float, float, int]] = []
    memory: list[tuple[int, float]] = []

    def note(progress: Progress) -> None:
        if not begun and len(progress.clock.workers) == workers:
            begun.append((time.perf_counter(), time.process_time(), progress.done))
        if not memory or progress.done - memory[-1][0] >= len(records) // 20:
            memory.append((progress.done, resident_mb()))

    executor = RayExecutor(RayCluster(cpus=1), workers=1)
    extract_all(
        records, [backbone], folder, batch_size=chunk_rows, chunk_rows=chunk_rows, executor=executor, on_progress=note
    )
    began, spent, done = begun[0]
    chunks = (len(records) - done) / chunk_rows
    return {
        "workers": workers,
        "chunks": chunks,
        "chunks_a_second": chunks / (time.perf_counter() - began),
        "driver_ms_a_chunk": 1e3 * (time.process_time() - spent) / chunks,
        "driver_mb_after_a_quarter": next(mb for images, mb in memory if images >= len(records) / 4),
        "driver_mb_at_the_end": memory[-1][1],
    }


def drawn(folder: Path, count: int) -> Records:
    """So many different images of four pixels a side, a thousand a folder."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return read_records(FolderConfig(path=str(folder)))


def resident_mb() -> float:
    """Megabytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:3] or ("400", "6000"))))
