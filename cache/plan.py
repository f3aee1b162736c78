"""The chunks that a store still needs, fixed before any is computed and persisted beside them.

Which images share a chunk, and how many go through the network at once, must not change when a run is killed and
started again: both are in the plan, so that the bytes of the finished store do not depend on the kills. A chunk of the
plan can be computed by any process that has the images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain, count
from typing import NamedTuple

import pyarrow as pa

from cache.sealed import parquet_bytes, read_parquet
from cache.storage import Storage

PLAN_KEY = "plan.parquet"
_SCHEMA = pa.schema([pa.field("chunk", pa.int64(), nullable=False), pa.field("digest", pa.binary(32), nullable=False)])
_SETTINGS = b"plan"


class Chunk(NamedTuple):
    """A unit of work: the chunk's number, the digests of rows in order, and how many rows it has before them."""

    number: int
    digests: tuple[bytes, ...]
    start: int = 0


class ChunkPlan(NamedTuple):
    """The chunks to compute, and the images in one forward that they are computed with.

    ``batch_size`` is None where a chunk is computed at once. ``fits`` is how many squares (views of images) the memory
    turned out to take at once, None while no batch was too large.
    """

    chunks: tuple[Chunk, ...] = ()
    batch_size: int | None = None
    fits: int | None = None


def make_plan(
    old: ChunkPlan, missing: Sequence[bytes], *, rows: Mapping[int, int], chunk_rows: int, batch_size: int | None
) -> ChunkPlan:
    """The plan for the digests ``missing`` (each once), with as many chunks of the plan ``old`` as can stay.

    ``rows`` is how many rows each chunk has. What is left of a chunk of ``old`` stays if all of its images are missing
    and can be computed now. The rest of ``missing`` fills the chunks that are not full, then new ones, which take the
    lowest numbers that are free.
    """
    wanted, chunks = set(missing), list[Chunk]()
    for number, digests, start in old.chunks:
        there = rows.get(number, 0)
        left = digests[there - start :] if there >= start else ()
        if left and wanted.issuperset(left):
            chunks.append(Chunk(number, left, there))
    planned = {digest for chunk in chunks for digest in chunk.digests}
    rest = [digest for digest in missing if digest not in planned]
    used = {*rows, *(chunk.number for chunk in chunks)}
    short = [
        number for number in sorted(rows) if rows[number] < chunk_rows and number not in {c.number for c in chunks}
    ]
    places = chain(short, (number for number in count() if number not in used))
    low = 0
    while low < len(rest):
        number = next(places)
        start = rows.get(number, 0)
        chunks.append(Chunk(number, tuple(rest[low : low + chunk_rows - start]), start))
        low += chunk_rows - start
    size = batch_size or old.batch_size
    return ChunkPlan(tuple(sorted(chunks)), size, old.fits if size == old.batch_size else None)


def read_plan(storage: Storage) -> ChunkPlan:
    """The plan that is pending in a store; an empty one where there is none, or where it cannot be read."""
    try:
        table = read_parquet(storage.read(PLAN_KEY))
        settings = json.loads(table.schema.metadata[_SETTINGS])
        chunks: dict[int, list[bytes]] = {}
        for number, digest in zip(table["chunk"].to_pylist(), table["digest"].to_pylist(), strict=True):
            chunks.setdefault(number, []).append(digest)
        starts = settings.get("starts", {})
        planned = tuple(Chunk(number, tuple(ds), starts.get(str(number), 0)) for number, ds in chunks.items())
        return ChunkPlan(planned, settings["batch_size"], settings["fits"])
    except (FileNotFoundError, pa.ArrowException, ValueError, KeyError, TypeError):
        return ChunkPlan()


def write_plan(storage: Storage, plan: ChunkPlan) -> None:
    """Persist ``plan``."""
    numbers = [chunk.number for chunk in plan.chunks for _ in chunk.digests]
    digests = [digest for chunk in plan.chunks for digest in chunk.digests]
    starts = {str(chunk.number): chunk.start for chunk in plan.chunks if chunk.start}
    settings = json.dumps({"batch_size": plan.batch_size, "fits": plan.fits, "starts": starts})
    table = pa.table([pa.array(numbers, pa.int64()), pa.array(digests, pa.binary(32))], schema=_SCHEMA)
    content = parquet_bytes(table, {_SETTINGS: settings}, compression="none", use_dictionary=["chunk"])
    storage.put(PLAN_KEY, content)
