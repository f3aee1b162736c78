"""What serving costs beside what it serves: CPU seconds a request, on loopback, with 100,000 vectors in the gallery.

Makes a bundle of the bundled network with a head of 64 dimensions and drawn vectors, serves it in a process of its own,
and asks it with a few connections. What a request takes of the processor is compared, in the same run, with decoding,
forward and search alone, in batches as large as those that the service made. Writes ``results/serve.json``.

    python -m benchmarks.serve [FOLDER]
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import faiss
import numpy as np
import pyarrow as pa
from PIL import Image
from threadpoolctl import threadpool_limits

from benchmarks.measured import Row, write
from pipeline.bundle import Bundle, read_snapshot
from pipeline.bundle.export import export_bundle
from pipeline.bundle.snapshots import Snapshot, make_current, write_snapshot
from pipeline.config import parse_config
from pipeline.dataset import run_of
from pipeline.extraction import Hardware, extract_features
from pipeline.progress import Display
from pipeline.searcher import Searcher
from pipeline.vectors import find_vectors
from stages.ranking import unit_length
from stages.retrieval import GalleryIndex

_IMAGES, _DIM, _K, _CONNECTIONS = 100_000, 64, 10, 8
_KEYS, _UPLOADS, _TIMED_S = 2_000, 96, 5.0
_RUN = """
artifacts = "{folder}/artifacts"
[dataset]
kind = "folder"
path = "{folder}/images"
queries_per_class = 1
[[backbones]]
kind = "bundled"
name = "efficientnet_lite0"
[[heads]]
name = "pca64"
kind = "pca"
dim = 64
"""
_LOAD = """
import sys
from pathlib import Path
import numpy as np
from pipeline.bundle import Bundle, read_snapshot
embedder = Bundle.open(sys.argv[1]).embedder()
vectors = np.array(np.load(Path(sys.argv[1]) / "snapshots/2/vectors.npy"))
print("ready", flush=True)
sys.stdin.read()
"""


def main(folder: Path | None) -> None:
    """Make the bundle, serve it, ask."""
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    with tempfile.TemporaryDirectory() as scratch:
        bundle = _bundle(folder or Path(scratch))
        rows = [*_index(bundle)]
        ready_alone, memory_alone = _started([sys.executable, "-c", _LOAD, str(bundle)])
        command = [sys.executable, "-m", "pipeline", "serve", str(bundle), "--port", "0", "--quiet"]
        ready, memory = _started(command)
        rows += [
            _at_most("ready, beyond loading the network", ready - ready_alone, 5.0, "s", "asked for"),
            _at_most("resident memory, beyond network and vectors", memory - memory_alone, 300.0, "MB", "asked for"),
        ]
        with _serving(command) as (address, process), threadpool_limits(1, user_api="blas"):  # as the service does
            rows += asyncio.run(_asked(address, process, Searcher.open(bundle)))
        write("serve", rows)


def _bundle(home: Path) -> Path:
    """A bundle of 100,000 drawn vectors; one that is there stays."""
    path = home / "bundle"
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    for number in range(192):
        image = home / f"images/{number // 4}/{number % 4}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(_jpeg(number))
    run = run_of(parse_config(_RUN.format(folder=home)), Display(quiet=True))
    extract_features(run, Hardware())
    export_bundle(run, find_vectors(run, train=True)[-1], path)
    vectors = unit_length(rng.normal(size=(_IMAGES, _DIM)).astype(np.float32))
    keys = [f"images/{number:06}.jpg" for number in range(_IMAGES)]
    table = pa.table(
        {
            "id": np.arange(_IMAGES),
            "key": keys,
            "label": [f"class {number % 5_000}" for number in range(_IMAGES)],
            "uri": keys,
            "digest": [number.to_bytes(32, "big") for number in range(_IMAGES)],
            "domain": pa.nulls(_IMAGES, pa.string()),
            "attributes.colour": [("red", "green", "blue")[number % 3] for number in range(_IMAGES)],
        }
    )
    index = GalleryIndex.build(vectors, keys, Bundle.open(path).embeddings)
    write_snapshot(path, Snapshot(2, table, vectors, index))
    make_current(path, 2)
    return path


def _jpeg(seed: int) -> bytes:
    """A picture of 480 x 360 pixels with coarse and fine parts, of about 40 kB."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        (480, 360), Image.Resampling.BICUBIC
    )
    pixels = np.clip(np.asarray(coarse, np.int16) + rng.integers(-12, 13, (360, 480, 3)), 0, 255)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()


def _index(bundle: Path) -> Iterator[Row]:
    """The searcher's index beside faiss's own, batch by batch."""
    index = read_snapshot(Bundle.open(bundle)).index
    rng = np.random.default_rng(1)
    for size in (1, 8, 32):
        queries = unit_length(rng.normal(size=(size, _DIM)).astype(np.float32))
        ours, theirs = _side_by_side(
            lambda queries=queries: index.search(queries, _K),  # type: ignore[misc]
            lambda queries=queries: index.index.search(queries, _K),  # type: ignore[misc]
        )
        limit = f"{_IMAGES:,} x {_DIM}, k {_K}, {faiss.omp_get_max_threads()} threads"
        yield Row(f"index search, batch of {size}", 1e3 * ours / size, "faiss IndexFlatIP", 1e3 * theirs / size,
                  "ms CPU", theirs / ours, 0.9, limit)  # fmt: skip


def _side_by_side(*works: Callable[[], object], seconds: float = 3.0) -> list[float]:
    """The median CPU seconds of each of ``works``, in turns."""
    taken: list[list[float]] = [[] for _ in works]
    for work in works:
        work()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for work, times in zip(works, taken, strict=True):
            began = time.process_time()
            work()
            times.append(time.process_time() - began)
    return [float(np.median(times)) for times in taken]


def _started(command: Sequence[str]) -> tuple[float, float]:
    """Seconds until ``command`` prints its first line, the least of two, and its resident megabytes then."""
    seconds, memory = [], []
    for _ in range(2):
        began = time.monotonic()
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            seconds.append(time.monotonic() - began)
            memory.append(_resident(process.pid))
            process.terminate()
    return min(seconds), min(memory)


def _resident(pid: int) -> float:
    (kilobytes,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kilobytes) / 1e3


def _cpu(pid: int) -> float:
    """CPU seconds of all threads of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _serving(command: Sequence[str]) -> Iterator[tuple[tuple[str, int], int]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        host, _, port = process.stdout.readline().strip().removeprefix("http://").rstrip("/").partition(":")
        yield (host, int(port)), process.pid
        process.terminate()


async def _asked(address: tuple[str, int], pid: int, searcher: Searcher) -> list[Row]:
    """Ask by key and by image with some connections, then by key at half of that rate."""
    keys = searcher.gallery.table["key"].to_pylist()
    rng = np.random.default_rng(2)
    by_key = [_get(f"/search?k={_K}&key={quote(keys[row])}") for row in rng.integers(0, len(keys), _KEYS)]
    contents = [_jpeg(number) for number in range(16)]
    by_image = [_post(f"/search?k={_K}", contents[number % 16]) for number in range(_UPLOADS)]
    await _all(address, by_key[:100] + by_image[:10])

    before = await _batches(address)
    rate, key_cpu = await _rate(address, by_key, pid)
    size = _mean(before, await _batches(address), "searches")
    vectors = searcher.vectors_of(keys[:size])
    (search_cpu,) = _side_by_side(lambda: searcher.find(vectors, _K))
    search_cpu /= size

    before = await _batches(address)
    image_rate, image_cpu = await _rate(address, by_image, pid)
    images = _mean(before, await _batches(address), "images")

    def alone() -> None:
        searcher.find(searcher.embed(contents[:images]).vectors, _K)

    (alone_cpu,) = _side_by_side(alone, seconds=10.0)
    alone_cpu /= images
    p50, p99 = await _latencies(address, by_key, rate / 2)
    beyond = 1e3 * (key_cpu - search_cpu)
    limit = f"{1e3 * key_cpu:.2f} ms less {1e3 * search_cpu:.2f} of search, batches of {size}; {rate:.0f} requests/s"
    return [
        _at_most("a query by key, beyond its search", beyond, 1.5, "ms CPU", limit),
        Row("a query by image", 1e3 * image_cpu, "decode, forward, search alone", 1e3 * alone_cpu, "ms CPU",
            alone_cpu / image_cpu, 1 / 1.2, f"batches of {images}; {image_rate:.1f} requests/s"),
        _at_most("p99 of a query by key at half of saturation", 1e3 * p99, 3e3 * p50, "ms", f"{rate / 2:.0f} a second"),
    ]  # fmt: skip


def _at_most(work: str, ours: float, most: float, unit: str, limit: str) -> Row:
    return Row(work, ours, "what was asked for", most, unit, most / max(ours, 1e-9), 1.0, limit)


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def _post(path: str, content: bytes) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


async def _rate(address: tuple[str, int], requests: Sequence[bytes], pid: int) -> tuple[float, float]:
    """Requests a second, and CPU seconds of the service a request."""
    cpu, began = _cpu(pid), time.monotonic()
    await _all(address, requests)
    return len(requests) / (time.monotonic() - began), (_cpu(pid) - cpu) / len(requests)


async def _all(address: tuple[str, int], requests: Sequence[bytes]) -> None:
    """Ask all, with some connections that each wait for the answer."""
    waiting = iter(requests)

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(*address)
        for request in waiting:
            await _answer(reader, writer, request)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(_CONNECTIONS)))


async def _latencies(address: tuple[str, int], requests: Sequence[bytes], rate: float) -> tuple[float, float]:
    """The median and the 99th percentile of the seconds to an answer, of requests that come at random at ``rate``."""
    free = [await asyncio.open_connection(*address) for _ in range(64)]
    taken: list[float] = []

    async def one(request: bytes, due: float) -> None:
        connection = free.pop()
        await _answer(*connection, request)
        taken.append(time.monotonic() - due)
        free.append(connection)

    rng = np.random.default_rng(3)
    due, tasks, number = time.monotonic(), [], 0
    until = due + _TIMED_S
    while due < until:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.ensure_future(one(requests[number % len(requests)], time.monotonic())))
        due, number = due + rng.exponential(1 / rate), number + 1
    await asyncio.gather(*tasks)
    for _, writer in free:
        writer.close()
    return float(np.percentile(taken, 50)), float(np.percentile(taken, 99))


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    (length,) = re.findall(rb"content-length: (\d+)", head)
    return await reader.readexactly(int(length))


async def _batches(address: tuple[str, int]) -> dict[str, tuple[float, float]]:
    """How many requests went through each queue, and in how many batches."""
    reader, writer = await asyncio.open_connection(*address)
    text = (await _answer(reader, writer, _get("/metrics"))).decode()
    writer.close()
    values = dict(re.findall(r'permafrost_batch_size_(\w+\{queue="\w+")\} ([\d.]+)', text))
    return {
        queue: (float(values[f'sum{{queue="{queue}"']), float(values[f'count{{queue="{queue}"']))
        for queue in ("images", "searches")
    }


def _mean(before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]], queue: str) -> int:
    """How large a batch of ``queue`` was meanwhile."""
    (jobs, batches), (jobs_now, batches_now) = before[queue], after[queue]
    return max(1, round((jobs_now - jobs) / max(1.0, batches_now - batches)))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
