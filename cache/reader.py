"""The store of features (or embeddings) as it is read: content-addressed rows, committed chunk by chunk.

::

    <parent>/<name>-<first 8 of the fingerprint>/
        identity.json          everything that changes the numbers; a mismatch is an error
        provenance.json        where the store was begun; recorded, never compared
        network.json           of features: what the network computed of a fixed image, compared whenever it is opened
        zarr.json, features/   a Zarr v3 group with one array (rows, D), one file a chunk; (rows, V, D) for V views
        rows/<chunk>.parquet   digest, status, width, height, error, checksum of the chunk's rows: *this* commits them
        plan.parquet           the chunks still to compute; gone when the store is complete
    <parent>/<name>-<...>.rows the rows of all chunks in one file, of a large store: see :mod:`cache.folded_rows`
    <parent>/<name>-<...>.lock the lock of a running extraction, beside the store: its bytes depend on its content alone

A chunk without rows does not exist. Reading takes no lock and writes nothing; :mod:`cache.writer` writes.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cache import layout
from cache.digest_list import Digests, as_digests
from cache.errors import DamagedStoreError, MissingRowsError, SettingsError, StaleStoreError, StoreError
from cache.features import Arrays, Failure, Listed
from cache.fingerprint import JSON, Identity, Provenance
from cache.folded_rows import Chunks, read_chunks
from cache.object_storage import ObjectStorage
from cache.rows import fragment_key, provenance_of, read_fragment
from cache.storage import LocalStorage, Storage, Where, has, storage_of

FORMAT = 1
CHUNK_ROWS = 1024
_REQUESTS = 16  # to object storage, at once
_FEW = 32  # rows are read alone where they are fewer than this part of a chunk
_IDENTITY = "identity.json"
_Part = EllipsisType | tuple[slice, int]  # of a chunk: all views, or one


class FeatureStore:
    """A snapshot of the rows (N, D) keyed by the sha256 of the image's bytes. :meth:`reload` takes a new one.

    Made by :meth:`open`, :meth:`find` or :meth:`at`; filled by :class:`cache.StoreWriter`, which has an example.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = FeatureStore.open(folder, "toy", Identity({"toy": 1}), dim=3, provenance=Provenance("cpu", {}))
    ...     len(store), store.dim, FeatureStore.at(store.path).missing([bytes(32)]) == [bytes(32)]
    (0, 3, True)
    """

    def __init__(self, storage: Storage, given: Chunks | None = None) -> None:
        self.storage = storage
        self._given = given  # rows that are sent with the store, in place of those that are read
        self.address = storage.address()  # where the store is, for messages: a path or a URL
        self.identity = _read_identity(storage)
        self.row_shape: tuple[int, ...]
        """(D,), or (V, D) where V views of each image are stored; the first is the plain one."""
        self.dtype: np.dtype[np.generic]
        self.chunk_rows: int
        self._chunks = Chunks({}, None, {})
        self.reload()

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureStore, (self.storage, self._given)  # a worker opens it

    @classmethod
    def open(
        cls,
        parent: Where,
        name: str,
        identity: Identity,
        *,
        dim: int,
        provenance: Provenance,
        dtype: str = "float16",
        views: int = 1,
        chunk_rows: int = CHUNK_ROWS,
    ) -> FeatureStore:
        """Open the store of ``identity`` below ``parent``, or begin it; ``chunk_rows`` is fixed when it is begun.

        Raises :class:`StaleStoreError` when the folder holds another identity, naming each key that differs.
        """
        full = store_identity(identity, dim, dtype, views)
        storage = storage_of(parent).below(f"{name}-{full.short}")
        begun = has(storage, _IDENTITY)
        if not begun:  # of several processes that begin it the first one's files count
            attributes: dict[str, JSON] = {"name": name, "fingerprint": full.fingerprint, "format": FORMAT}
            row_shape = (dim,) if views == 1 else (views, dim)
            files = layout.metadata_files(0, row_shape, np.dtype(dtype), chunk_rows, attributes)
            files |= {"provenance.json": f"{provenance.to_json()}\n".encode(), _IDENTITY: full.to_json().encode()}
            for key, content in files.items():
                storage.put_new(key, content)
        store = cls._opened(storage, full)
        if not begun:  # there are rows where only the descriptions were deleted
            layout.resize(store.storage, store.array_rows({}))
        return store

    @classmethod
    def find(
        cls,
        parent: Where,
        name: str,
        identity: Identity,
        *,
        dim: int,
        dtype: str = "float16",
        views: int = 1,
        remedy: str,
    ) -> FeatureStore:
        """Open the store of ``identity``, which must exist; ``remedy`` is the sentence that says how to make it.

        Raises :class:`StaleStoreError` when there are only stores of the same ``name`` with another identity (the
        nearest one's differing keys are listed) and :class:`MissingRowsError` when there is none.
        """
        full = store_identity(identity, dim, dtype, views)
        beside = storage_of(parent)
        storage = beside.below(f"{name}-{full.short}")
        if has(storage, _IDENTITY):
            return cls._opened(storage, full)
        others = [
            cls(beside.below(folder))
            for key in beside.list(f"{name}-")
            if fnmatch(key, f"{glob.escape(name)}-????????/{_IDENTITY}") and (folder := key.partition("/")[0])
        ]
        if not others:
            raise MissingRowsError(f"There is no store {storage.address()}. {remedy}")
        nearest = min(others, key=lambda other: len(other.identity.differences(full)))
        way_out = f"{remedy} The stored one stays. Or set these values back to the stored ones."
        raise StaleStoreError(nearest.address, nearest.identity.differences(full), way_out)

    @classmethod
    def at(cls, where: Where) -> FeatureStore:
        """Open the store in a folder, or at an address in object storage, whatever its identity."""
        return cls(storage_of(where))

    @classmethod
    def _opened(cls, storage: Storage, wanted: Identity) -> FeatureStore:
        store = cls(storage)
        if differences := store.identity.differences(wanted):
            way_out = f"Move {store.address} away to compute it anew, or use the values that are stored."
            raise StaleStoreError(store.address, differences, way_out)
        return store

    @property
    def folder(self) -> str:
        """``<name>-<first 8 of the fingerprint>``."""
        return self.address.rstrip("/").rpartition("/")[2]

    @property
    def path(self) -> Path:
        """The folder of a store on a local disk. Raises SettingsError for one that is elsewhere."""
        if not isinstance(self.storage, LocalStorage):
            raise SettingsError(f"{self.address} is no folder of a local disk")
        return self.storage.path()

    @property
    def fingerprint(self) -> str:
        """The sha256 of the identity, 64 hexadecimal digits."""
        return self.identity.fingerprint

    @property
    def dim(self) -> int:
        """D, the size of one feature."""
        return self.row_shape[-1]

    @property
    def views(self) -> int:
        """V, the number of views of each image that are stored."""
        return 1 if len(self.row_shape) == 1 else self.row_shape[0]

    @property
    def name(self) -> str:
        """The folder's name without the fingerprint."""
        return self.folder.removesuffix(f"-{self.identity.short}")

    def reload(self) -> None:
        """Take a new snapshot of what is committed."""
        _, self.row_shape, self.dtype, self.chunk_rows = layout.read_shape(self.storage)
        now = self._given
        self._chunks = read_chunks(self.storage, self._chunks, self.fragment) if now is None else now

    def fragment(self, number: int) -> pa.Table:
        """The rows of a committed chunk, read now; those of version 0.1.0 have the checksum of the chunk."""
        rows = read_fragment(self.storage, number, self.how_to_mend(number))
        if not rows["crc32c"].null_count:
            return rows
        checksum = layout.stored_checksum(self.storage, number, self.row_shape)
        place, field = rows.schema.get_field_index("crc32c"), rows.schema.field("crc32c")
        return rows.set_column(place, field, pa.array([checksum] * len(rows), field.type))

    def __repr__(self) -> str:
        shape = ", ".join(f"{size:,}" for size in (len(self), *self.row_shape))
        failed = len(self.failures())
        return f"FeatureStore({self.address}: ({shape}) {self.dtype}, {failed:,} images without a feature)"

    # What is there

    def chunks(self) -> Chunks:
        """The rows of each committed chunk (digest, status, width, height, error), by ascending number."""
        return self._chunks

    def array_rows(self, planned: Mapping[int, int]) -> int:
        """The rows that the array needs for the committed chunks and those ``planned``, lengths by number."""
        lengths = self._chunks.lengths | dict(planned)
        return max((number * self.chunk_rows + length for number, length in lengths.items()), default=0)

    def provenance(self, number: int) -> Provenance:
        """Where chunk ``number`` was computed."""
        return provenance_of(self._chunks[number])

    def __len__(self) -> int:
        """The number of different images with a stored feature."""
        return len(self._chunks.places(0))

    def digests(self) -> Digests:
        """The digest of every image with a stored feature, each once, in row order."""
        return self._chunks.digests.take(self._chunks.places(0))

    def usable(self, digests: Sequence[bytes]) -> npt.NDArray[np.bool_]:
        """True where ``digests`` (n,) has a stored feature."""
        return self._chunks.good(self._chunks.find(digests))

    def failures(self, digests: Sequence[bytes] | None = None) -> list[Failure]:
        """The images without a feature among ``digests`` (by default all), each once, in that order."""
        if digests is None:
            bad = self._chunks.places(1, 2)
        else:
            places = self._chunks.find(digests)
            bad = places[(places >= 0) & ~self._chunks.good(places)]
        first = dict.fromkeys(bad.tolist())
        names = self._chunks.digests.take(np.array([*first], np.int64))
        return [Failure(name, self._chunks.outcome(place)) for name, place in zip(names, first, strict=True)]

    def missing(self, digests: Sequence[bytes], *, retry_failed: bool = False) -> Digests:
        """Those of ``digests`` to compute, each once: unread ones too, and failed ones if ``retry_failed``."""
        places = self._chunks.find(digests)
        return as_digests(digests).take(~self._chunks.good(places, or_failed=not retry_failed)).unique()

    def absent(self, digests: Sequence[bytes]) -> Digests:
        """Those of ``digests`` that have no row of any kind, each once: nobody has tried to compute them yet."""
        places = self._chunks.find(digests)
        return as_digests(digests).take(places < 0).readable().unique()

    def row_numbers(self, digests: Sequence[bytes]) -> npt.NDArray[np.int64]:
        """The number (n,) of the row that counts for each of ``digests``, -1 where there is none."""
        places = self._chunks.find(digests)
        chunks, rows = self._chunks.where(np.maximum(places, 0)) if len(self._chunks) else (places, places)
        return np.where(places < 0, -1, chunks * self.chunk_rows + rows)

    def checksums(self, digests: Sequence[bytes]) -> npt.NDArray[np.uint32]:
        """A checksum (n,) of the feature of each of ``digests`` (n,), 0 where there is none.

        That of an embedding is the one of the feature that it was computed from; that of a row of version 0.1.0 the one
        of its chunk.
        """
        places = self._chunks.find(digests)
        return np.where(self._chunks.good(places), self._chunks.checksums[places], np.uint32(0))

    def counts(self) -> Counter[str]:
        """How many images have each status."""
        return Counter({"ok": len(self)}) + Counter(failure.outcome.status for failure in self.failures())

    def size_bytes(self) -> int:
        """Bytes on disk of all files of the store."""
        with ThreadPoolExecutor(_REQUESTS) as pool:
            return sum(pool.map(self.storage.size, self.storage.list()))

    # Reading

    def read(self, digests: Sequence[bytes]) -> npt.NDArray[np.generic]:
        """The features (n, D) of ``digests`` (n,), in their order, in the stored dtype: of the first view.

        Raises :class:`MissingRowsError` naming the first digest that has no feature and why.
        """
        return self._gather(digests, np.s_[...] if len(self.row_shape) == 1 else np.s_[:, 0])

    def read_views(self, digests: Sequence[bytes]) -> npt.NDArray[np.generic]:
        """The features (n, V, D) of all views of ``digests`` (n,), as :meth:`read` gives those of the first."""
        features = self._gather(digests, np.s_[...])
        return features.reshape(len(digests), self.views, self.dim)

    def to_numpy(self, records: Listed) -> Arrays:
        """Features, labels and keys of those of ``records`` that did not fail. MissingRowsError for one not tried."""
        digests = records.digests
        if absent := self.absent(digests):
            raise MissingRowsError(self._why_missing(absent[0], -1))
        rows = np.flatnonzero(self.usable(digests)).tolist()
        labels, keys = ([column[row] for row in rows] for column in (records.labels, records.keys))
        names = np.array(labels, np.str_ if None not in labels else object)
        return Arrays(self.read([digests[row] for row in rows]), names, np.array(keys, np.str_))

    def _gather(self, digests: Sequence[bytes], part: _Part) -> npt.NDArray[np.generic]:
        """``part`` of each chunk's array, for the rows of ``digests``."""
        places = self._chunks.find(digests)
        if bad := np.flatnonzero(~self._chunks.good(places)).tolist():
            raise MissingRowsError(self._why_missing(digests[bad[0]], int(places[bad[0]])))
        chunks, positions = self._chunks.where(places)
        shape = np.empty((0, *self.row_shape), self.dtype)[part].shape[1:]
        features = np.empty((len(digests), *shape), self.dtype)
        order = np.argsort(chunks, kind="stable")
        bounds = np.flatnonzero(np.diff(chunks[order], prepend=-1, append=-1))

        def gather(low: int, high: int) -> None:
            rows = order[low:high]
            features[rows] = self._rows_at(int(chunks[rows[0]]), positions[rows], part)

        with ThreadPoolExecutor(_REQUESTS) as pool:
            far = isinstance(self.storage, ObjectStorage)
            for _ in (pool.map if far else map)(gather, bounds[:-1].tolist(), bounds[1:].tolist()):
                pass
        return features

    def _rows_at(self, number: int, positions: npt.NDArray[np.int64], part: _Part) -> npt.NDArray[np.generic]:
        """``part`` of the rows at ``positions`` (n,) of chunk ``number``: from far away a few are read alone."""
        if isinstance(self.storage, ObjectStorage) and len(positions) <= self.chunk_rows // _FEW:
            rows, row_shape = self._chunks[number], self.row_shape
            if (few := layout.read_few(self.storage, number, positions, row_shape, self.dtype, rows)) is not None:
                return few[part]
        return self.chunk(number)[part][positions]

    def chunk(
        self, number: int, rows: pa.Table | None = None, *, verify_again: bool = False
    ) -> npt.NDArray[np.generic]:
        """Chunk ``number`` as a read-only memory map (chunk rows, D) or (chunk rows, V, D); past its end are NaN.

        Its checksum is verified the first time that this process maps it, or each time with ``verify_again``;
        ``rows`` are those committed now, which a snapshot may not have yet. Raises :class:`DamagedStoreError`.
        """
        rows, shape = self._chunks[number] if rows is None else rows, (self.chunk_rows, *self.row_shape)
        mend = self.how_to_mend(number)
        return layout.map_chunk(
            self.storage, number, shape, self.dtype, rows=rows, mend=mend, verify_again=verify_again
        )

    def how_to_mend(self, number: int) -> str:
        """What to do about a damaged chunk."""
        path = self.storage.address(fragment_key(number))
        command = "train-heads" if "head" in self.identity.fields else "extract"
        return f"Delete {path}, and run `permafrost {command}` again: only this chunk is computed anew."

    def _why_missing(self, digest: bytes, place: int) -> str:
        image = f"the image {digest.hex()[:16]}..."
        if place < 0:
            return f"{self.address} has no row for {image} Extract it first."
        error = self._chunks.outcome(place).error
        return f"{self.address} has no feature for {image} ({error}). Leave such images out: usable() tells which."


def store_identity(identity: Identity, dim: int, dtype: str, views: int = 1) -> Identity:
    """``identity`` with what a store adds to it: the shape of its rows, their dtype, and the format."""
    several: dict[str, JSON] = {"views": views} if views > 1 else {}
    return Identity({**identity.fields, "store": {"dim": dim, "dtype": dtype, "format": FORMAT, **several}})


def _read_identity(storage: Storage) -> Identity:
    try:
        return Identity.from_json(storage.read(_IDENTITY).decode())
    except FileNotFoundError as error:
        raise StoreError(f"{storage.address()} is not a store: it has no {_IDENTITY}") from error
    except ValueError as error:
        raise DamagedStoreError(f"{storage.address(_IDENTITY)} is not JSON: {error}. {layout.MEND_METADATA}") from error
