"""Ten million images: the driver's memory, chunks committed a second, listing, and a run that finds nothing to do.

The table, the digests, the plan, the chunks and their rows are real files; no image is opened: the digests are drawn,
and an executor commits numbers made of them. Each step is a process of its own, so that its memory is its own.

    python -m benchmarks.scale [IMAGES] [FOLDER]
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.measured import machine
from cache import DigestCache, FeatureStore, Identity, Provenance, RowOutcome, StoreWriter
from cache.digests import GROUP_ROWS, DigestFile
from cache.fingerprint import digest_bytes
from cache.rows import fragment_stamps
from cache.source import ImageSource
from stages.datasets import TableConfig
from stages.extraction import Backbone, Clock, PreprocessConfig, extract_all
from stages.extraction.executor import Advance, Job
from stages.records import Records, read_records

_DIM, _SHARD_IMAGES, _IMAGE_BYTES, _CLASS_IMAGES = 16, 100_000, 48, 100
_T = TypeVar("_T")
_STEPS = ("records", "extract", "again", "open")


def main(images: int, folder: Path) -> None:
    """Run the steps on ``images`` images in ``folder``, print their figures, and write ``results/scale.json``."""
    _make(folder, images)
    rows: dict[str, dict[str, float]] = {}
    for step in _STEPS:
        command = [sys.executable, "-m", "benchmarks.scale", step, str(folder)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows[step] = json.loads(done.stdout.splitlines()[-1])
        print(step, json.dumps(rows[step], indent=1), flush=True)
        written = {"images": images, "machine": machine(), "date": date.today().isoformat(), "steps": rows}
        path = Path(__file__).with_name("results") / "scale.json"
        path.write_text(json.dumps(written, indent=2) + "\n")


def _make(folder: Path, images: int) -> None:
    """A Parquet table of images in shards, the shards (empty), and the digests that are remembered of them."""
    rng, artifacts = np.random.default_rng(0), folder / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    for shard in range(-(-images // _SHARD_IMAGES)):
        (folder / f"{shard:05d}.tar").touch()
    time.sleep(0.1)
    roles = pa.array(["train", "query", "gallery"])
    first = ImageSource(f"{folder}/00000.tar", (0, _IMAGE_BYTES)).uri
    remembered = artifacts / f"digests-{digest_bytes(first.encode()).hex()[:8]}.parquet"
    schema = pa.schema([("path", pa.string()), ("label", pa.string()), ("split", pa.string())])
    with pq.ParquetWriter(folder / "images.parquet", schema) as table, DigestFile(remembered) as file:
        for group, low in enumerate(range(0, images, GROUP_ROWS)):
            number = np.arange(low, min(low + GROUP_ROWS, images))
            offset = pa.array(number % _SHARD_IMAGES * _IMAGE_BYTES).cast(pa.string())
            shard = pc.utf8_lpad(pa.array(number // _SHARD_IMAGES).cast(pa.string()), 5, "0")
            place = pc.binary_join_element_wise("bytes:", offset, f"+{_IMAGE_BYTES}:", "")
            name = pc.binary_join_element_wise(shard, ".tar", "")
            drawn = rng.integers(0, max(1, images // _CLASS_IMAGES), len(number))
            label = pc.binary_join_element_wise("class ", pa.array(drawn).cast(pa.string()), "")
            split = roles.take(pa.array(rng.integers(0, 3, len(number))))
            path = pc.binary_join_element_wise(place, name, "")
            table.write_table(pa.table([path, label, split], schema=schema))
            versions = {n: ImageSource(str(folder / n)).version().text for n in set(name.to_pylist())}
            digests = pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(32), len(number), [None, pa.py_buffer(rng.bytes(32 * len(number)))]
            )
            uri = pc.binary_join_element_wise(place, f"{folder}/", name, "")
            version = pa.array([versions[n] for n in name.to_pylist()])
            file.write(group, pa.table({"uri": uri, "version": version, "digest": digests}), learned=True)


class _MadeUp:
    """Commits numbers made of the digests: what is left is the driver and the commit of chunks."""

    def __init__(self) -> None:
        self.memory: list[float] = []
        self.committing = 0.0
        self.committed = 0

    def execute(self, job: Job, _: Clock) -> Iterator[Advance]:
        origin, tenth = Provenance.here("cpu", []), max(1, len(job.units) // 10)
        for number, unit in enumerate(job.units):
            if number % tenth == 0:
                self.memory.append(_anonymous())
            began = time.perf_counter()
            for store, chunk in unit:
                words = np.frombuffer(b"".join(chunk.digests), np.uint8).reshape(len(chunk.digests), 32)
                features = words[:, :_DIM].astype(np.float32)
                StoreWriter(job.stores[store]).commit(chunk, features, [RowOutcome("ok", 4, 4)] * len(words), origin)
            self.committing += time.perf_counter() - began
            self.committed += len(unit)
            yield Advance(len(unit[0][1].digests), 0)


def _backbone() -> Backbone:
    preprocess = PreprocessConfig().resolve(size=8, mean=(0, 0, 0), std=(1, 1, 1), resize="squash")
    identity = Identity({"backbone": "made up", "preprocess": preprocess.identity()})

    def never(_: object) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        raise AssertionError("an image was opened")

    return Backbone("made-up", _DIM, identity, preprocess, never)


def _records(folder: Path) -> Records:
    cache = DigestCache(folder / "artifacts/digests.sqlite")
    records = read_records(TableConfig(path=str(folder / "images.parquet"), label="label"), digests=cache)
    assert cache.files_read == 0
    return records


def _step_records(folder: Path) -> dict[str, float]:
    before = _anonymous()
    records, figures = _timed("read the table and find the digests", lambda: _records(folder))
    figures |= _timed("count classes, roles, copies", records.counts)[1]
    return figures | _memory(before, len(records))


def _step_extract(folder: Path) -> dict[str, float | list[float]]:
    records, executor = _records(folder), _MadeUp()
    gc.collect()
    before = _anonymous()
    (filled,), figures = _timed(
        "extract", lambda: extract_all(records, [_backbone()], folder / "artifacts/features", executor=executor)
    )
    chunks = len(filled.store.chunks())
    listing = _timed("list the chunks", lambda: fragment_stamps(filled.store.storage))[1]
    return {
        **figures,
        **listing,
        "chunks": chunks,
        "chunks committed now": executor.committed,
        "chunks committed a second": executor.committed / executor.committing,
        "bytes a row on disk": filled.store.size_bytes() / len(records),
        "bytes a row held by the driver, at each tenth": [(m - before) / len(records) for m in executor.memory],
        **_memory(before, len(records)),
    }


def _step_again(folder: Path) -> dict[str, float]:
    before = _anonymous()
    records, figures = _timed("read the table and find the digests", lambda: _records(folder))
    (filled,), extracting = _timed(
        "extract nothing", lambda: extract_all(records, [_backbone()], folder / "artifacts/features")
    )
    assert filled.computed == 0
    return figures | extracting | _memory(before, len(records))


def _step_open(folder: Path) -> dict[str, float]:
    records = _records(folder)
    (path,) = (folder / "artifacts/features").glob("made-up-????????")
    gc.collect()
    before = _anonymous()
    missing, figures = _timed(
        "open the finished store and find nothing missing", lambda: FeatureStore.at(path).missing(records.digests)
    )
    assert not missing
    backwards, other = records.digests[::-1], FeatureStore.at(path)
    figures |= _timed("find nothing missing, in another order", lambda: other.missing(backwards))[1]
    return figures | _memory(before, len(records))


def _timed(what: str, work: Callable[[], _T]) -> tuple[_T, dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, {f"{what}, s": time.perf_counter() - wall, f"{what}, CPU s": time.process_time() - cpu}


def _memory(before: float, images: int) -> dict[str, float]:
    gc.collect()
    pa.default_memory_pool().release_unused()
    return {
        "bytes a row resident, of its own": (_anonymous() - before) / images,
        "bytes a row at the most, with mapped files": _status("VmHWM") / images,
    }


def _anonymous() -> float:
    """Bytes that the process holds itself: what is mapped from a file, the system can put aside."""
    return _status("RssAnon")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments and arguments[0] in _STEPS:
        step, where = globals()[f"_step_{arguments[0]}"], Path(arguments[1])
        print(json.dumps(step(where)))
    elif len(arguments) > 1:
        main(int(arguments[0]), Path(arguments[1]).absolute())
    else:
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
            main(int(arguments[0]) if arguments else 10_000_000, Path(scratch))
