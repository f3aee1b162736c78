"""The store of features (or embeddings): content-addressed rows, committed chunk by chunk.

::

    <parent>/<name>-<first 8 of the fingerprint>/
        identity.json          everything that changes the numbers; a mismatch is an error
        provenance.json        where the store was begun; recorded, never compared
        zarr.json, features/   a Zarr v3 group with one array (rows, D), one file a chunk; (rows, V, D) for V views
        rows/<chunk>.parquet   digest, status, width, height, error of the chunk's rows: *this* commits the chunk
    <parent>/<name>-<...>.lock the writer's lock, beside the store so that its bytes depend on its content alone

A row is keyed by the sha256 of the image's bytes, so renaming, relabelling, splitting and merging datasets computes
nothing. A chunk is computed from a list of digests fixed before it starts (:meth:`FeatureStore.plan`), its data is
written first and its rows last; a chunk without rows does not exist. Hence a killed run, started again, ends with
the bytes of the uninterrupted one.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cache import layout
from cache.atomic import PARTIAL, replace_text
from cache.errors import DamagedStoreError, MissingRowsError, StaleStoreError, StoreError, UnwritableError
from cache.fingerprint import JSON
from cache.identity import Identity, Provenance
from cache.lock import writer_lock
from cache.rows import RowIndex, RowOutcome, read_fragment, rows_table, write_fragment

FORMAT = 1
CHUNK_ROWS = 1024


class Chunk(NamedTuple):
    """A unit of work: the chunk's number and the digests of its rows, in order."""

    number: int
    digests: tuple[bytes, ...]


class Failure(NamedTuple):
    """An image without a feature, and why."""

    digest: bytes
    outcome: RowOutcome


class FeatureStore:
    """Rows (N, D) keyed by the sha256 of the image's bytes. Made by :meth:`open`, :meth:`find` or :meth:`at`."""

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path = path
        self.identity = identity
        self.row_shape: tuple[int, ...]
        """(D,), or (V, D) where V views of each image are stored; the first is the plain one."""
        self.dtype: np.dtype[np.generic]
        self.chunk_rows: int
        self._chunks: dict[int, pa.Table]  # the rows of each committed chunk
        self.reload()

    @classmethod
    def open(
        cls,
        parent: Path | str,
        name: str,
        identity: Identity,
        *,
        dim: int,
        provenance: Provenance,
        dtype: str = "float16",
        views: int = 1,
        chunk_rows: int = CHUNK_ROWS,
    ) -> FeatureStore:
        """Open the store of ``identity`` below ``parent``, or begin it.

        ``dim``, ``dtype``, ``views`` and the format join the identity. ``chunk_rows`` is fixed when the store is
        begun. Raises :class:`StaleStoreError` when the folder holds another identity, naming each key that differs.
        """
        full = _complete(identity, dim, dtype, views)
        path = Path(parent) / f"{name}-{full.short}"
        if not (path / "identity.json").exists():
            with writer_lock(_lock_path(path)):
                if not (path / "identity.json").exists():  # nor did another process begin it meanwhile
                    attributes: dict[str, JSON] = {"name": name, "fingerprint": full.fingerprint, "format": FORMAT}
                    row_shape = (dim,) if views == 1 else (views, dim)
                    layout.write_metadata(path, 0, row_shape, np.dtype(dtype), chunk_rows, attributes)
                    replace_text(path / "provenance.json", provenance.to_json() + "\n")
                    replace_text(path / "identity.json", full.to_json())
        return cls._opened(path, full)

    @classmethod
    def find(
        cls,
        parent: Path | str,
        name: str,
        identity: Identity,
        *,
        dim: int,
        dtype: str = "float16",
        views: int = 1,
        remedy: str,
    ) -> FeatureStore:
        """Open the store of ``identity`` for reading; it must exist.

        Raises :class:`StaleStoreError` when there are only stores of the same ``name`` with another identity (the
        nearest one's differing keys are listed) and :class:`MissingRowsError` when there is none; ``remedy`` is the
        sentence that says how to make it.
        """
        full = _complete(identity, dim, dtype, views)
        path = Path(parent) / f"{name}-{full.short}"
        if (path / "identity.json").exists():
            return cls._opened(path, full)
        near = [(len(differences), str(other), differences) for other, differences in _siblings(path, name, full)]
        if not near:
            raise MissingRowsError(f"There is no store {path}. {remedy}")
        _, other, differences = min(near)
        raise StaleStoreError(
            Path(other), differences, f"{remedy} The stored one stays. Or set these values back to the stored ones."
        )

    @classmethod
    def at(cls, path: Path | str) -> FeatureStore:
        """Open the store in the folder ``path``, whatever its identity."""
        path = Path(path)
        try:
            identity = Identity.from_json((path / "identity.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise StoreError(f"{path} is not a store: it has no identity.json") from error
        except ValueError as error:
            raise DamagedStoreError(f"{path}/identity.json is not JSON: {error}") from error
        return cls(path, identity)

    @classmethod
    def _opened(cls, path: Path, wanted: Identity) -> FeatureStore:
        store = cls.at(path)
        if differences := store.identity.differences(wanted):
            way_out = f"Move {path} away to compute it anew, or use the values that are stored."
            raise StaleStoreError(path, differences, way_out)
        return store

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
        return self.path.name.removesuffix(f"-{self.identity.short}")

    def reload(self) -> None:
        """Read again which chunks are committed: another process may have written."""
        _, self.row_shape, self.dtype, self.chunk_rows = layout.read_shape(self.path)
        paths = (self.path / "rows").glob("*.parquet")
        numbers = sorted(int(path.stem) for path in paths if path.stem.isdecimal())
        with ThreadPoolExecutor(4) as pool:  # a million rows are a thousand small files
            self._chunks = dict(zip(numbers, pool.map(self._read_rows, numbers), strict=True))
        self._forget_index()

    def _read_rows(self, number: int) -> pa.Table:
        path = self._fragment_path(number)
        try:
            return read_fragment(path)
        except (pa.ArrowException, OSError) as error:
            raise DamagedStoreError(f"{path} cannot be read: {error}. {layout.mend(number)}") from error

    @cached_property
    def _index(self) -> RowIndex:
        return RowIndex(self._chunks, self.chunk_rows)

    def _forget_index(self) -> None:
        self.__dict__.pop("_index", None)

    # What is there

    def chunks(self) -> dict[int, pa.Table]:
        """The rows of each committed chunk (digest, status, width, height, error), by ascending number."""
        return dict(sorted(self._chunks.items()))

    def provenance(self, number: int) -> Provenance:
        """Where chunk ``number`` was computed."""
        return Provenance.from_json(self._chunks[number].schema.metadata[b"provenance"])

    def __len__(self) -> int:
        """The number of different images with a stored feature."""
        return len(self.digests())

    def digests(self) -> list[bytes]:
        """The digest of every image with a stored feature, each once, in row order."""
        places = np.flatnonzero(self._index.ok)
        in_order = places[np.argsort(self._index.rows[places], kind="stable")]
        return list(dict.fromkeys(self._index.table["digest"].take(in_order).to_pylist()))

    def usable(self, digests: Sequence[bytes]) -> npt.NDArray[np.bool_]:
        """True where ``digests`` (n,) has a stored feature."""
        places = self._index.find(digests)
        return self._index.good(places)

    def failures(self, digests: Sequence[bytes] | None = None) -> list[Failure]:
        """The images without a feature among ``digests`` (by default all), each once, in that order."""
        asked = list(dict.fromkeys(self._index.table["digest"].to_pylist() if digests is None else digests))
        places = self._index.find(asked)
        bad = np.flatnonzero((places >= 0) & ~self._index.good(places))
        return [Failure(asked[i], self._index.outcome(int(places[i]))) for i in bad]

    def missing(self, digests: Sequence[bytes], *, retry_failed: bool = False) -> list[bytes]:
        """Those of ``digests`` that an extraction has to compute: each once, in order of first appearance.

        A failed image is not among them unless ``retry_failed``; one whose bytes could not be read is.
        """
        places = self._index.find(digests)
        done = self._index.good(places) if retry_failed else self._index.settled(places)
        return list(dict.fromkeys(digests[number] for number in np.flatnonzero(~done).tolist()))

    def absent(self, digests: Sequence[bytes]) -> list[bytes]:
        """Those of ``digests`` that have no row of any kind, each once: nobody has tried to compute them yet."""
        asked = list(dict.fromkeys(digest for digest in digests if digest))
        return [digest for digest, place in zip(asked, self._index.find(asked), strict=True) if place < 0]

    def row_numbers(self, digests: Sequence[bytes]) -> npt.NDArray[np.int64]:
        """The number (n,) of the row that counts for each of ``digests``, -1 where there is none."""
        places = self._index.find(digests)
        return np.where(places >= 0, np.append(self._index.rows, -1)[places], -1)

    def counts(self) -> Counter[str]:
        """How many images have each status."""
        return Counter({"ok": len(self)}) + Counter(failure.outcome.status for failure in self.failures())

    def size_bytes(self) -> int:
        """Bytes on disk of all files of the store."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    # Reading

    def read(self, digests: Sequence[bytes]) -> npt.NDArray[np.generic]:
        """The features (n, D) of ``digests`` (n,), in their order, in the stored dtype: of the first view.

        Rows are gathered from memory maps of the chunk files. Raises :class:`MissingRowsError` naming the first
        digest that has no feature and why.
        """
        return self._gather(digests, np.s_[...] if len(self.row_shape) == 1 else np.s_[:, 0])

    def read_views(self, digests: Sequence[bytes]) -> npt.NDArray[np.generic]:
        """The features (n, V, D) of all views of ``digests`` (n,), as :meth:`read` gives those of the first."""
        features = self._gather(digests, np.s_[...])
        return features.reshape(len(digests), self.views, self.dim)

    def _gather(self, digests: Sequence[bytes], part: Any) -> npt.NDArray[np.generic]:
        """``part`` of each chunk's array, for the rows of ``digests``."""
        places = self._index.find(digests)
        if bad := np.flatnonzero(~self._index.good(places)).tolist():
            raise MissingRowsError(self._why_missing(digests[bad[0]], int(places[bad[0]])))
        numbers = self._index.rows[places]
        shape = np.empty((0, *self.row_shape), self.dtype)[part].shape[1:]
        features = np.empty((len(digests), *shape), self.dtype)
        chunks = numbers // self.chunk_rows
        order = np.argsort(chunks, kind="stable")
        bounds = np.flatnonzero(np.diff(chunks[order], prepend=-1, append=-1))
        for low, high in pairwise(bounds):
            rows = order[low:high]
            features[rows] = self.chunk(int(chunks[rows[0]]))[part][numbers[rows] % self.chunk_rows]
        return features

    def chunk(self, number: int) -> npt.NDArray[np.generic]:
        """Chunk ``number`` as a read-only memory map (chunk rows, D) or (chunk rows, V, D); past its end are NaN."""
        return layout.map_chunk(self._chunk_path(number), (self.chunk_rows, *self.row_shape), self.dtype)

    def _chunk_path(self, number: int) -> Path:
        return layout.chunk_path(self.path, number, self.row_shape)

    def _why_missing(self, digest: bytes, place: int) -> str:
        image = f"the image {digest.hex()[:16]}..."
        if place < 0:
            return f"{self.path} has no row for {image} Extract it first."
        error = self._index.outcome(place).error
        return f"{self.path} has no feature for {image} ({error}). Leave such images out: usable() tells which."

    # Writing

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one writer: take the lock (or raise :class:`StoreBusyError`) and clear what a killed writer left."""
        with writer_lock(_lock_path(self.path)):
            for leftover in self.path.rglob(f"*{PARTIAL}"):
                leftover.unlink()
            self.reload()
            for number in layout.chunk_numbers(self.path):
                if number not in self._chunks:
                    shutil.rmtree(layout.chunk_folder(self.path, number))
            yield

    def plan(self, digests: Sequence[bytes], *, retry_failed: bool = False) -> list[Chunk]:
        """Fix the chunks that computing the missing of ``digests`` takes, and make the array as long as they need.

        Chunks take the lowest free numbers, so the plan after a kill is the rest of the plan before it. Call it
        inside :meth:`writing`; then chunks can be computed and written in any order, by any process.
        """
        missing = self.missing(digests, retry_failed=retry_failed)
        pieces = [missing[low : low + self.chunk_rows] for low in range(0, len(missing), self.chunk_rows)]
        free = (number for number in range(len(self._chunks) + len(pieces)) if number not in self._chunks)
        chunks = [Chunk(number, tuple(piece)) for number, piece in zip(free, pieces, strict=False)]
        lengths = {number: rows.num_rows for number, rows in self._chunks.items()}
        lengths |= {chunk.number: len(chunk.digests) for chunk in chunks}
        self._resize(max((number * self.chunk_rows + length for number, length in lengths.items()), default=0))
        return chunks

    def write_chunk(
        self, chunk: Chunk, features: npt.NDArray[np.generic], outcomes: Sequence[RowOutcome], provenance: Provenance
    ) -> list[RowOutcome]:
        """Commit ``chunk``: its features (n, D), or (n, V, D), first, then the rows that say it is there.

        A feature that is not finite in the stored dtype is not stored: its row becomes ``failed`` with the reason.
        Returns the outcomes as committed. Raises :class:`UnwritableError`, as on a full disk; then nothing of the
        chunk is there.
        """
        if features.shape != (len(chunk.digests), *self.row_shape) or len(outcomes) != len(chunk.digests):
            raise ValueError(
                f"chunk {chunk.number} has {len(chunk.digests)} rows of shape {self.row_shape}; "
                f"got features {features.shape} and {len(outcomes)} outcomes"
            )
        if chunk.number in self._chunks:
            raise ValueError(f"chunk {chunk.number} of {self.path} is committed already; a chunk is written once")
        block = np.full((self.chunk_rows, *self.row_shape), np.nan, self.dtype)
        with np.errstate(over="ignore"):  # an overflow is found, named and refused just below
            block[: len(features)] = features
        committed = [
            outcome
            if outcome.status != "ok" or np.isfinite(block[row]).all()
            else outcome._replace(status="failed", error=self._why_not_finite(features[row]))
            for row, outcome in enumerate(outcomes)
        ]
        block[[row for row, outcome in enumerate(committed) if outcome.status != "ok"]] = np.nan
        rows = rows_table(chunk.digests, committed)
        try:
            layout.write_chunk_file(self._chunk_path(chunk.number), block)
            write_fragment(self._fragment_path(chunk.number), rows, provenance.to_json())
        except UnwritableError:  # no data without its rows, as a kill may leave it: on a full disk it takes room
            shutil.rmtree(layout.chunk_folder(self.path, chunk.number), ignore_errors=True)
            raise
        self._chunks[chunk.number] = rows
        self._forget_index()
        return committed

    def remove_chunk(self, number: int) -> None:
        """Take chunk ``number`` out: its rows first, then its data."""
        self._fragment_path(number).unlink()
        shutil.rmtree(layout.chunk_folder(self.path, number))
        self.reload()

    def _fragment_path(self, number: int) -> Path:
        return self.path / "rows" / f"{number}.parquet"

    def _resize(self, rows: int) -> None:
        if rows != layout.read_shape(self.path)[0]:
            attributes: dict[str, JSON] = {"name": self.name, "fingerprint": self.fingerprint, "format": FORMAT}
            layout.write_metadata(self.path, rows, self.row_shape, self.dtype, self.chunk_rows, attributes)

    def _why_not_finite(self, feature: npt.NDArray[np.generic]) -> str:
        if not np.isfinite(feature.astype(np.float64)).all():
            return f"{self.name} gave NaN or infinity"
        return f"{self.name} gave {np.abs(feature.astype(np.float64)).max():.4g}, past the largest {self.dtype}"


def _complete(identity: Identity, dim: int, dtype: str, views: int) -> Identity:
    several: dict[str, JSON] = {"views": views} if views > 1 else {}
    return Identity({**identity.fields, "store": {"dim": dim, "dtype": dtype, "format": FORMAT, **several}})


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _siblings(path: Path, name: str, wanted: Identity) -> Iterator[tuple[Path, list[str]]]:
    for other in sorted(path.parent.glob(f"{name}-????????")):
        if (other / "identity.json").exists():
            yield other, FeatureStore.at(other).identity.differences(wanted)
