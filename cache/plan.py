"""The chunks that a store still needs, fixed before any is computed and persisted beside them.

Which images share a chunk, and how many go through the network at once, must not change when a run is killed and
started again: the bytes of the finished store follow from the plan alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain, count, pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from cache.digest_list import DigestIndex, Digests, as_digests, joined_digests
from cache.sealed import parquet_bytes, read_parquet
from cache.storage import Storage

PLAN_KEY = "plan.parquet"
_SCHEMA = pa.schema([pa.field("chunk", pa.int64(), nullable=False), pa.field("digest", pa.binary(32), nullable=False)])
_SETTINGS = b"plan"


class Chunk(NamedTuple):
    """A unit of work: the chunk's number, the digests of rows in order, and how many rows it has before them."""

    number: int
    digests: Sequence[bytes]
    start: int = 0


class ChunkPlan(NamedTuple):
    """The chunks to compute, images in one forward (None: all), and the squares that the memory takes (None: all)."""

    chunks: tuple[Chunk, ...] = ()
    batch_size: int | None = None
    fits: int | None = None

    def is_committed(self, lengths: Mapping[int, int]) -> bool:
        """Whether a store whose chunks have so many rows has all that is planned."""
        return all(lengths.get(chunk.number, 0) >= chunk.start + len(chunk.digests) for chunk in self.chunks)


def make_plan(
    old: ChunkPlan, missing: Sequence[bytes], *, rows: Mapping[int, int], chunk_rows: int, batch_size: int | None
) -> ChunkPlan:
    """The plan for the digests ``missing`` (each once), with as many chunks of the plan ``old`` as can stay.

    What is left of a chunk of ``old`` stays if all of its images are missing. The rest fills the chunks that are not
    full (``rows`` is how many each has), then new ones, which take the lowest numbers that are free.
    """
    missing, chunks = as_digests(missing), list[Chunk]()
    left = [
        Chunk(number, digests[there - start :], there)
        for number, digests, start in old.chunks
        if start <= (there := rows.get(number, 0)) < start + len(digests)
    ]
    rest = missing
    if left:
        at = DigestIndex(missing).find(joined_digests([chunk.digests for chunk in left]))
        lengths = [len(chunk.digests) for chunk in left]
        stay = [bool((part >= 0).all()) for part in np.split(at, np.cumsum(lengths)[:-1])]
        chunks = [chunk for chunk, whole in zip(left, stay, strict=True) if whole]
        planned = np.zeros(len(missing), np.bool_)
        planned[at[np.repeat(stay, lengths)]] = True
        rest = missing.take(~planned)
    pending = {chunk.number for chunk in chunks}
    used = {*rows, *pending}
    short = [number for number in sorted(rows) if rows[number] < chunk_rows and number not in pending]
    places = chain(short, (number for number in count() if number not in used))
    low = 0
    while low < len(rest):
        number = next(places)
        start = rows.get(number, 0)
        chunks.append(Chunk(number, rest[low : low + chunk_rows - start], start))
        low += chunk_rows - start
    size = batch_size or old.batch_size
    return ChunkPlan(
        tuple(sorted(chunks, key=lambda chunk: chunk.number)), size, old.fits if size == old.batch_size else None
    )


def read_plan(storage: Storage) -> ChunkPlan:
    """The plan that is pending in a store; an empty one where there is none, or where it cannot be read."""
    try:
        table = read_parquet(storage.read(PLAN_KEY))
        settings = json.loads(table.schema.metadata[_SETTINGS])
        numbers, digests = table["chunk"].to_numpy(), Digests.from_column(table["digest"])
        bounds = [*np.flatnonzero(np.diff(numbers, prepend=-1)).tolist(), len(numbers)]
        starts = settings.get("starts", {})
        planned = tuple(
            Chunk(number := int(numbers[low]), digests[low:high], starts.get(str(number), 0))
            for low, high in pairwise(bounds)
        )
        return ChunkPlan(planned, settings["batch_size"], settings["fits"])
    except (FileNotFoundError, pa.ArrowException, ValueError, KeyError, TypeError):
        return ChunkPlan()


def write_plan(storage: Storage, plan: ChunkPlan) -> None:
    """Persist ``plan``."""
    each = np.array([(chunk.number, len(chunk.digests)) for chunk in plan.chunks], np.int64).reshape(-1, 2)
    numbers = np.repeat(each[:, 0], each[:, 1])
    digests = joined_digests([chunk.digests for chunk in plan.chunks])
    starts = {str(chunk.number): chunk.start for chunk in plan.chunks if chunk.start}
    settings = json.dumps({"batch_size": plan.batch_size, "fits": plan.fits, "starts": starts})
    table = pa.table([pa.array(numbers, pa.int64()), digests.column()], schema=_SCHEMA)
    content = parquet_bytes(table, {_SETTINGS: settings}, compression="none", use_dictionary=["chunk"])
    storage.put(PLAN_KEY, content)
