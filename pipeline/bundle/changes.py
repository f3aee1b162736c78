"""Images added to a bundle and removed from it: each a new snapshot beside the old one, until one is published."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cache import DigestCache, ObjectStorage, parse_source
from cache.atomic import PARTIAL, clear_partials
from cache.errors import RecordsError
from cache.lock import confirm_driver, driver_lease, writer_lock
from cache.storage import absolute
from pipeline.bundle.layout import THUMBNAILS, Bundle, thumbnail_key, write_thumbnails
from pipeline.bundle.snapshots import (
    SNAPSHOTS,
    Snapshot,
    current_number,
    make_current,
    newest_number,
    numbers,
    read_snapshot,
    write_snapshot,
)
from pipeline.encoder import Encoder
from stages.datasets import SourceConfig
from stages.retrieval.gallery_rows import GalleryRows

_COLUMNS = ("key", "label", "uri", "digest", "domain")
Report = Callable[[int, int, str], None]


class Added(NamedTuple):
    """The newest snapshot, how many images are new in it and how many were there, and why others failed, by key."""

    snapshot: int
    added: int
    present: int
    failed: dict[str, str]
    refused: bool = False  # too many failed, and nothing was written


def add_images(
    bundle: Bundle,
    source: SourceConfig,
    *,
    encoder: Callable[[], Encoder],
    max_failures: float = 0.0,
    wait: bool = False,
    on_progress: Report = lambda *_: None,
) -> Added:
    """Write a snapshot with the images of ``source`` beside those of the newest one; none where nothing is new.

    ``encoder`` is called where an image is new. Where a larger share of the images fails than ``max_failures``, nothing
    is written. Raises RecordsError for a key twice, or one that the bundle has for another image, and StoreBusyError
    where another process is changing the bundle, unless it is to ``wait``.
    """
    table, failed = _digested(source)
    address = bundle.storage.address()
    with _changing(bundle, wait) as (newest, number):
        has = dict(zip(newest.rows["key"].to_pylist(), newest.rows["digest"].to_pylist(), strict=True))
        keys, digests = table["key"].to_pylist(), table["digest"].to_pylist()
        pairs = list(zip(keys, digests, strict=True))
        if other := [key for key, digest in pairs if has.get(key, digest) != digest]:
            raise RecordsError(
                f"{len(other):,} keys belong to other images of {address}, the first {other[0]!r}; nothing was added. "
                f"Where the new image takes the place of the old one: `permafrost remove {address} KEY` first. "
                "Otherwise give it another key: another file name, or a column key of a table."
            )
        new = table.filter(pa.array([key not in has for key in keys], pa.bool_()))
        vectors, problems = _encoded(encoder, new, on_progress)
        failed |= problems
        if len(failed) > max_failures * (len(table) + len(failed) - len(problems)):
            return Added(newest.number, 0, len(table) - len(new), failed, refused=True)
        good = [row for row, key in enumerate(new["key"].to_pylist()) if key not in problems]
        snapshot = newest.number
        if good:
            index = newest.index.with_rows(new["key"].take(good).to_pylist(), vectors[good])
            ids = pa.array(index.ids[len(newest.rows) :])
            rows = pa.concat_tables([newest.rows, new.take(good).add_column(0, "id", ids)], promote_options="default")
            if bundle.described["thumbnails"]:
                write_thumbnails(bundle.storage, rows)
            every = np.concatenate([newest.vectors, vectors[good]])
            snapshot = write_snapshot(bundle.storage, Snapshot(number + 1, rows, every, index), newest.number)
        return Added(snapshot, len(good), len(table) - len(new), failed)


def remove_images(
    bundle: Bundle,
    keys: Sequence[str] = (),
    where: Mapping[str, Sequence[str | None]] | None = None,
    *,
    wait: bool = False,
) -> tuple[int, int]:
    """Write a snapshot without the images of ``keys``, or without those that have the values that ``where`` names.

    In place of a key may stand the path that a search prints. Returns the number of the snapshot, and how many images
    are gone; none is where a key, a column or a value is not there, or no image would be left: that is an error.
    """
    with _changing(bundle, wait) as (newest, number):
        present = newest.rows["key"].to_pylist()
        named = _keys_named(bundle, newest.rows, keys)
        gone = np.isin(np.array(present, dtype=object), np.array(named, dtype=object))
        if where:
            gone |= GalleryRows.from_table(newest.rows).allowed(where)
        if not gone.any():
            return newest.number, 0
        index = newest.index.without([key for key, away in zip(present, gone.tolist(), strict=True) if away])
        left = Snapshot(number + 1, newest.rows.filter(pa.array(~gone)), newest.vectors[~gone], index)
        return write_snapshot(bundle.storage, left, newest.number), int(gone.sum())


def _keys_named(bundle: Bundle, rows: pa.Table, names: Sequence[str]) -> list[str]:
    """The key of each of ``names``: a key itself, or a path that one image alone has."""
    keys, paths = rows["key"].to_pylist(), rows["uri"].to_pylist()
    own, times = dict(zip(paths, keys, strict=True)) | dict(zip(keys, keys, strict=True)), Counter(paths)
    names = [name if name in own or not name or _absolute(name) not in own else _absolute(name) for name in names]
    if absent := sorted({*names} - {*own}):
        where = f"{bundle.storage.address()} has no image"
        raise RecordsError(f"{where} of {len(absent):,} of the keys, first {absent[0]!r}; nothing was removed")
    if several := sorted(name for name in names if own[name] != name and times[name] > 1):
        count = f"{times[several[0]]:,} images"
        raise RecordsError(f"{several[0]} is the path of {count}: name them by their keys; nothing was removed")
    return [own[name] for name in names]


def publish(bundle: Bundle, *, prune: bool = False, wait: bool = False) -> int:
    """Search the newest snapshot from now on, and return its number; with ``prune`` delete what only others need."""
    storage = bundle.storage
    with _changing(bundle, wait) as (newest, _):
        if current_number(storage) != newest.number:
            make_current(storage, newest.number)
        if prune:
            numbered = ((key, key.split("/")[1]) for key in storage.list(f"{SNAPSHOTS}/"))
            gone = [key for key, number in numbered if number.isdecimal() and int(number) < newest.number]
            staying = {thumbnail_key(digest) for digest in newest.rows["digest"].to_pylist()}
            gone += [key for key in storage.list(f"{THUMBNAILS}/") if key.endswith(".jpg") and key not in staying]
            confirm_driver(storage)
            for key in gone:
                storage.delete(key)
        return newest.number


@contextmanager
def _changing(bundle: Bundle, wait: bool) -> Iterator[tuple[Snapshot, int]]:
    """Hold the bundle for one change, from its newest snapshot on; with the last number that is taken."""
    storage, folder = bundle.storage, bundle.path / SNAPSHOTS
    with driver_lease(storage, wait=wait) if isinstance(storage, ObjectStorage) else writer_lock(folder, wait=wait):
        if not isinstance(storage, ObjectStorage):
            for half in folder.glob(f"*{PARTIAL}"):  # of a writer that was killed
                shutil.rmtree(half)
            clear_partials(bundle.path)
        yield read_snapshot(bundle, newest_number(storage)), numbers(storage)[-1]


def _digested(source: SourceConfig) -> tuple[pa.Table, dict[str, str]]:
    """The images of ``source`` with their digests, and why others cannot be read, by key."""
    table = source.read().table
    keys = table["key"].to_pylist()
    if twice := [key for key, count in Counter(keys).items() if count > 1]:
        raise RecordsError(f"{source.path} has the key {twice[0]!r} twice: each image needs one of its own")
    uris = [_absolute(uri) for uri in table["uri"].to_pylist()]  # a bundle is opened from other folders too
    table = table.set_column(table.column_names.index("uri"), "uri", pa.array(uris, pa.string()))
    outcomes = DigestCache().digests(uris)
    names = [*_COLUMNS, *(name for name in table.column_names if name.startswith("attributes."))]
    columns = {
        name: table[name].cast(pa.string()) if name in table.column_names else pa.nulls(len(table), pa.string())
        for name in names
    }
    columns["digest"] = pa.array([outcome.digest for outcome in outcomes], pa.binary(32))
    failed = {key: outcome.error for key, outcome in zip(keys, outcomes, strict=True) if outcome.digest is None}
    digested = pa.table(columns)
    return digested.filter(digested["digest"].is_valid()), failed


def _absolute(uri: str) -> str:
    source = parse_source(uri)
    return source._replace(path=absolute(source.path)).uri


def _encoded(
    encoder: Callable[[], Encoder], new: pa.Table, on_progress: Report
) -> tuple[npt.NDArray[np.float32], dict[str, str]]:
    """The vectors (n, E) of unit length of the images of ``new``, and why some have none, by key."""
    if not len(new):
        return np.empty((0, 0), np.float32), {}
    keys, uris, digests = (new[name].to_pylist() for name in ("key", "uri", "digest"))
    encoded = encoder().encode_sources(keys, [*map(parse_source, uris)], digests, on_progress=on_progress)
    return encoded.vectors, {failure.name: failure.reason for failure in encoded.failed}
