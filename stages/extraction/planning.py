"""What an extraction would compute, before any of it: images, bytes, and the time, from a timed sample."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from cache import FeatureStore, parse_source
from cache.digest_list import DigestIndex, Digests
from cache.errors import MissingRowsError, StaleStoreError
from cache.reader import CHUNK_ROWS
from cache.storage import Where
from stages.device import keep_freed_memory
from stages.extraction.backbones import Backbone
from stages.extraction.extract import ON_CPU, Uris, find_store
from stages.extraction.flow import Batch, Clock, flow
from stages.processes import processors
from stages.records import Records

_LEAST_BATCHES = 4
_GOLDEN = 0.618034


class Planned(NamedTuple):
    """What one backbone lacks: images to do, failed ones that are not tried again, there already, and bytes on disk."""

    backbone: Backbone
    todo: int
    failed: int
    present: int
    bytes_now: int
    bytes_more: int


class Plan(NamedTuple):
    """An extraction that has not begun: a line a backbone, the images to open, and the seconds they would take."""

    backbones: list[Planned]
    images: int
    seconds: float
    clock: Clock


def plan_extraction(
    records: Records,
    backbones: Sequence[Backbone],
    path: Where,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    dtype: str = "float16",
    retry_failed: bool = False,
    sample_seconds: float = 8.0,
) -> Plan:
    """What :func:`stages.extraction.extract_all` with these arguments would do. Nothing is written.

    The time is that of a sample of the images to do, taken evenly from all of them, through the same flow: at least
    ``sample_seconds`` long, after a first batch that warms up, or all images where they take less.

    >>> import tempfile
    >>> from tests.toys.extraction import one_image, toy_backbone
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plan_extraction(one_image(folder), [toy_backbone()], folder).images
    1
    """
    digests, uris, lines = records.digests.readable().unique(), Uris(records), []
    index, lacking = DigestIndex(digests), np.zeros((len(backbones), len(digests)), np.bool_)
    for number, backbone in enumerate(backbones):
        store: FeatureStore | None = None
        with suppress(MissingRowsError, StaleStoreError):
            store = find_store(backbone, path, dtype=dtype, remedy="")
        missing = digests if store is None else store.missing(digests, retry_failed=retry_failed)
        lacking[number, index.find(missing)] = True
        failures = [] if store is None else store.failures(digests)
        failed = sum(failure.outcome.status == "failed" for failure in failures)
        present = 0 if store is None else int(store.usable(digests).sum())
        row_bytes = backbone.preprocess.stored * backbone.dim * np.dtype(dtype).itemsize
        chunk_rows = CHUNK_ROWS if store is None else store.chunk_rows
        room = 0 if store is None else sum(chunk_rows - length for length in store.chunks().lengths.values())
        more = -(-max(0, len(missing) - room) // chunk_rows) * chunk_rows * row_bytes
        now = 0 if store is None else store.size_bytes()
        lines.append(Planned(backbone, len(missing), failed if not retry_failed else 0, present, now, more))
    clock = Clock()
    if not lacking.any():
        return Plan(lines, 0, 0.0, clock)
    keep_freed_memory(one_arena=all(backbone.device == "cpu" for backbone in backbones))
    seconds, images = 0.0, int(lacking.any(axis=0).sum())
    for wanting in np.unique(lacking, axis=1).T[::-1]:  # images that the same backbones lack: one kind of work
        if wanting.any():
            group = digests.take((lacking == wanting[:, None]).all(axis=0))
            wanted = [backbone for backbone, lacks in zip(backbones, wanting, strict=True) if lacks]
            share = sample_seconds * len(group) / images
            sample = _sample(group, uris, wanted, batch_size or ON_CPU)
            device = next((backbone.device for backbone in wanted if backbone.device != "cpu"), "cpu")
            seconds += _seconds_an_image(sample, device, workers, share, clock) * len(group)
    return Plan(lines, images, seconds, clock)


def _sample(digests: Digests, uris: Uris, backbones: Sequence[Backbone], size: int) -> Iterator[Batch]:
    """Neighbours share a batch, as they will (a Parquet row group is read once); batches come from all over the set."""
    for first in sorted(range(0, len(digests), size), key=lambda first: first // size * _GOLDEN % 1):
        piece = [*digests[first : first + size]]
        yield Batch(piece, [parse_source(uri) for uri in uris(piece)], backbones)


def _seconds_an_image(sample: Iterator[Batch], device: str, workers: int | None, wanted: float, clock: Clock) -> float:
    ends, images = [time.perf_counter()], [0]
    for done in flow(sample, workers=workers or processors(), clock=clock, device=device):
        ends.append(time.perf_counter())
        images.append(len(done.outcomes))
        if ends[-1] - ends[1] >= wanted and len(ends) > 1 + _LEAST_BATCHES:
            break
    warm = min(1, len(ends) - 2)  # the first batch warms up, where there are others
    return (ends[-1] - ends[warm]) / sum(images[warm + 1 :])
