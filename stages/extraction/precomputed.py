"""Features that another program or an API computed: read from a file, checked, and kept in a store like any other.

A file that names images by key says nothing of their bytes: each row of the store notes the key that it came from, and
a dataset that gives the image another key is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather
import pyarrow.parquet as pq

from cache import DigestCache, FeatureStore, Identity, Provenance, RowOutcome, StoreWriter
from cache.atomic import unless_read_only
from cache.digest_list import joined_digests
from cache.errors import AbsentPathError, MissingExtraError, RecordsError, SettingsError, StaleStoreError
from cache.fingerprint import JSON, fingerprint
from cache.rows import as_stored
from cache.sealed import json_text
from cache.settings import Settings
from cache.storage import Storage, Where, has, storage_of
from cache.writer import drop_committed_plan
from stages.extraction.extract import Filled
from stages.records import Records

DIGEST = "digest"
"""The column of a table that says the sha256 of each image's bytes; where there is one, keys are not looked at."""

_NOTE = "from the key "
_LACKED = " has no feature of this {}"
_FORMATS = ".npy, .parquet, .arrow, .feather, .lance, or the folder of a saved Hugging Face dataset"


@dataclass(frozen=True, kw_only=True)
class PrecomputedConfig(Settings):
    """``kind = "precomputed"``: features from a file, of another program or an API. No image is opened for them.

    Attributes:
        name: what the features are called in stores and scores.
        path: ``.npy`` (M, D); ``.parquet``, ``.arrow``, ``.feather`` or ``.lance`` with a column of lists; or the
            folder of a saved Hugging Face dataset.
        keys: of an ``.npy``: a text file with a key a line, or a json list; by default its name with ``.keys.txt``.
        key: the column with the key of each record.
        vector: the column with the feature.
    """

    kind: Literal["precomputed"] = "precomputed"
    name: str = "precomputed"
    path: str
    keys: str | None = None
    key: str = "key"
    vector: str = "vector"

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise SettingsError(f"name is part of a folder's name: not empty, without a slash; got {self.name!r}")
        if self.keys is not None and Path(self.path).suffix != ".npy":
            raise SettingsError("keys goes with an .npy file; a table names its column of keys: key = '...'")


class Vectors(NamedTuple):
    """The features (M, D) of a file, and what names each: keys, or digests."""

    names: list[str] | list[bytes]
    vectors: npt.NDArray[np.generic]
    by_digest: bool


def read_vectors(config: PrecomputedConfig) -> Vectors:
    r"""The features of the file of ``config``; an ``.npy`` is mapped and not read. RecordsError names what is wrong.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/f.npy", np.eye(2, dtype=np.float32))
    ...     _ = Path(folder, "f.keys.txt").write_text("a.jpg\nb.jpg\n")
    ...     read_vectors(PrecomputedConfig(path=f"{folder}/f.npy")).names
    ['a.jpg', 'b.jpg']
    """
    path = Path(config.path)
    try:
        given = _read_npy(config) if path.suffix == ".npy" else _from_table(config, _read_table(path))
    except FileNotFoundError as error:
        raise AbsentPathError(f"{error.filename or path} does not exist") from None
    except (pa.ArrowException, ValueError, OSError) as error:
        raise RecordsError(f"{path} cannot be read: {error}") from error
    if given.vectors.ndim != 2 or not given.vectors.size:
        raise RecordsError(f"{path} must hold a row of numbers for each image, (M, D); got {given.vectors.shape}")
    if given.vectors.dtype.kind not in "fiu":
        raise RecordsError(f"{path} must hold numbers; got {given.vectors.dtype}")
    if len(given.names) != len(given.vectors):
        raise RecordsError(f"{path} has {len(given.vectors):,} features and {len(given.names):,} keys: as many of each")
    rows: dict[Any, int] = {}
    for row, name in enumerate(given.names):
        if not name:
            raise RecordsError(f"{path}, row {row + 1}: the key is empty; every feature needs one")
        if (first := rows.setdefault(name, row)) != row:
            shown = name.hex() if isinstance(name, bytes) else repr(name)
            raise RecordsError(f"{path}: rows {first + 1} and {row + 1} have the same key {shown}; drop one")
    return given


def _read_npy(config: PrecomputedConfig) -> Vectors:
    path = Path(config.path)
    vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    keys = Path(config.keys) if config.keys is not None else path.with_suffix(".keys.txt")
    text = keys.read_text(encoding="utf-8-sig")
    names = json.loads(text) if keys.suffix == ".json" else text.removesuffix("\n").split("\n")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RecordsError(f"{keys} must be a list of texts, one a feature of {path}")
    return Vectors(names, vectors, by_digest=False)


def _read_table(path: Path, *, first: bool = False) -> pa.Table:
    match path.suffix:
        case ".parquet":
            with pq.ParquetFile(path) as file:
                return pa.Table.from_batches([next(file.iter_batches(1))]) if first else file.read()
        case ".arrow" | ".feather":
            return pyarrow.feather.read_table(path)
        case ".lance":
            try:
                import lance
            except ImportError:
                raise MissingExtraError(f"Lance, which {path} is a dataset of,", "lance") from None
            return lance.dataset(str(path)).to_table(limit=1 if first else None)
    if (path / "state.json").is_file():
        files = json.loads((path / "state.json").read_text(encoding="utf-8"))["_data_files"]
        tables = []
        for file in files:
            with pa.memory_map(str(path / file["filename"])) as source:
                tables.append(pa.ipc.open_stream(source).read_all())
        return pa.concat_tables(tables)
    if not path.exists():
        raise FileNotFoundError(2, "", str(path))
    raise RecordsError(f"{path} is not a file of features that can be read: {_FORMATS}")


def _from_table(config: PrecomputedConfig, table: pa.Table) -> Vectors:
    names = table.column_names
    by_digest = DIGEST in names and table[DIGEST].type == pa.binary(32)
    column = DIGEST if by_digest else config.key
    for wanted in (column, config.vector):
        if wanted not in names:
            raise RecordsError(f"{config.path} has no column {wanted!r}; it has {', '.join(names)}")
    column_of_lists = table[config.vector]
    lists = pa.concat_arrays(column_of_lists.chunks or [pa.array([], column_of_lists.type)])
    if not any(check(lists.type) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)):
        raise RecordsError(
            f"the column {config.vector!r} of {config.path} must hold lists of numbers, not {lists.type}"
        )
    lengths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero((lengths != lengths[:1]) | (lengths < 0))[:1].tolist():
        raise RecordsError(
            f"{config.path}, row {row + 1}: the feature has {max(0, lengths[row]) or 'no'} numbers, and "
            f"{f'that of row 1 {lengths[0]}' if row else 'others have'}; every one needs as many"
        )
    numbers = lists.flatten()
    if numbers.null_count:
        row = int(pc.index(pc.is_null(numbers), True).as_py()) // int(lengths[0])
        raise RecordsError(f"{config.path}, row {row + 1}: a number of the feature is missing")
    flat = numbers.to_numpy(zero_copy_only=False)
    keys = table[column] if by_digest else table[column].cast(pa.string())
    return Vectors(keys.to_pylist(), flat.reshape(len(lists), -1), by_digest)


def import_features(
    config: PrecomputedConfig,
    records: Records,
    path: Where,
    *,
    dtype: str = "float16",
    retry_failed: bool = False,
    wait: bool = False,
    digests: DigestCache | None = None,
) -> Filled:
    r"""Fill the store of ``config`` below ``path`` with the features of ``records`` that it lacks.

    A record that the file has no feature for becomes a row that failed, with the reason, until it is given a key that
    the file has; so does a feature with NaN, or that ``dtype`` cannot hold, which ``retry_failed`` reads again.
    RecordsError where two keys of one image have different features, StaleStoreError where an image has another key
    than when its feature was read, and another feature.

    >>> import tempfile
    >>> from stages.datasets import TableConfig
    >>> from stages.records import read_records
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/f.npy", np.eye(2, dtype=np.float32))
    ...     _ = Path(folder, "f.keys.txt").write_text("a\nb")
    ...     _ = Path(folder, "t.csv").write_text("key,label\na,cup\nb,mug\n")
    ...     records = read_records(TableConfig(path=f"{folder}/t.csv", label="label", images=False))
    ...     filled = import_features(PrecomputedConfig(path=f"{folder}/f.npy"), records, f"{folder}/features")
    ...     filled.computed, filled.store.read(records.digests).tolist()
    (2, [[1.0, 0.0], [0.0, 1.0]])
    """
    identity, origin = _identity(config, digests), Provenance.here("file", ("numpy", "pyarrow"))
    store = FeatureStore.open(path, config.name, identity, dim=_dim(config), dtype=dtype, provenance=origin)
    keys, read = _keys(records), cache(partial(_Named.read, config))
    if (place := _check_keys(store, keys, read, storage_of(path))) is not None:
        with unless_read_only():
            storage_of(path).put(place, json_text({"one_feature_each": True}).encode())
    failed = [
        failure.digest
        for failure in store.failures([*keys])
        if retry_failed or failure.outcome.error.endswith((_LACKED.format("key"), _LACKED.format("digest")))
    ]
    wanted = store.missing([*keys])
    if failed:
        named = read()
        wanted = joined_digests([wanted, [digest for digest in failed if named.rows(keys[digest], digest)]]).unique()
    if not wanted:
        drop_committed_plan(store)
        return Filled(store, 0)
    named = read()
    lacking = config.path + _LACKED.format("digest" if named.given.by_digest else "key")
    with StoreWriter(store, wait=wait) as writer:
        chunks = writer.plan(wanted, retry_failed=True).chunks
        for chunk in chunks:
            places = [named.rows(keys[digest], digest) for digest in chunk.digests]
            rows = np.array([own[0] if own else -1 for own in places])
            features = np.where(rows[:, None] < 0, np.nan, named.given.vectors[rows].astype(np.float64))
            outcomes = [
                RowOutcome(error=named.note(own[0])) if own else RowOutcome("failed", error=lacking) for own in places
            ]
            writer.commit(chunk, features, outcomes, origin)
    return Filled(store, sum(len(chunk.digests) for chunk in chunks))


def find_imported(
    config: PrecomputedConfig,
    records: Records,
    path: Where,
    *,
    dtype: str,
    remedy: str,
    digests: DigestCache | None = None,
) -> FeatureStore:
    """The store that :func:`import_features` filled. Raises as :meth:`cache.FeatureStore.find`."""
    identity = _identity(config, digests)
    store = FeatureStore.find(path, config.name, identity, dim=_dim(config), dtype=dtype, remedy=remedy)
    _check_keys(store, _keys(records), cache(partial(_Named.read, config)), storage_of(path))
    return store


class _Named:
    """The features of a file, to be looked up by the keys of an image or its digest."""

    def __init__(self, given: Vectors) -> None:
        self.given = given
        self._places: dict[Any, int] = {name: row for row, name in enumerate(given.names)}

    @classmethod
    def read(cls, config: PrecomputedConfig) -> _Named:
        return cls(read_vectors(config))

    def rows(self, keys: Sequence[str], digest: bytes) -> list[int]:
        """The rows of the file with a feature of the image, in the order of ``keys``."""
        names: Sequence[Any] = [digest] if self.given.by_digest else keys
        return [self._places[name] for name in names if name in self._places]

    def note(self, row: int) -> str:
        name = self.given.names[row]
        return f"{_NOTE}{name}" if isinstance(name, str) else ""

    def stored(self, row: int, dtype: np.dtype[np.generic]) -> npt.NDArray[np.generic]:
        """The feature (1, D) as a store of ``dtype`` holds it; NaN where it cannot."""
        return as_stored(self.given.vectors[row : row + 1].astype(np.float64), dtype, [RowOutcome()], "")[0]


def _keys(records: Records) -> dict[bytes, list[str]]:
    """The keys of each image, in sorted order: several where records have the same bytes."""
    keys: dict[bytes, list[str]] = {}
    for digest, key in zip(records.digests, records.keys, strict=True):
        if digest:
            keys.setdefault(digest, []).append(key)
    return {digest: sorted(own) for digest, own in keys.items()}


def _check_keys(
    store: FeatureStore, keys: Mapping[bytes, Sequence[str]], read: Callable[[], _Named], features: Storage
) -> str | None:
    """Raise where an image has not one feature: by two of its keys, or by the key that it had and the one of now.

    Returns where among the ``features`` it may be noted of the images of several keys, which spares reading a file of
    gigabytes for each command; None where there are none, or it is noted.
    """
    several = {digest: own for digest, own in sorted(keys.items()) if len(own) > 1}
    lists: dict[str, JSON] = {digest.hex(): [*own] for digest, own in several.items()}
    place = f"known/copies-{fingerprint([store.fingerprint, lists])[:16]}.json" if several else None
    if place is not None and has(features, place):
        place, several = None, {}
    noted: dict[bytes, str] = {}
    for rows in store.chunks().values():
        with_note = rows.filter(pc.starts_with(rows["error"], _NOTE))
        for digest, note in zip(with_note["digest"].to_pylist(), with_note["error"].to_pylist(), strict=True):
            if digest in keys and note.removeprefix(_NOTE) not in keys[digest]:
                noted.setdefault(digest, note.removeprefix(_NOTE))
    for digest in dict.fromkeys([*noted, *several]):
        named = read()
        own = named.rows(keys[digest], digest)
        vectors = [named.stored(row, store.dtype) for row in own]
        for row, vector in zip(own, vectors, strict=True):
            if not np.array_equal(vector, vectors[0], equal_nan=True):
                first, other = named.given.names[own[0]], named.given.names[row]
                raise RecordsError(
                    f"the keys {first!r} and {other!r} are images of the same bytes and have different features, in "
                    f"rows {own[0] + 1} and {row + 1} of the file of {store.name}. One image has one feature: correct "
                    "the keys, or drop one of the two"
                )
        if digest in noted and not (own and np.array_equal(vectors[0], store.read([digest]), equal_nan=True)):
            differs = f"the image of key {keys[digest][0]!r}: its feature is that of the key {noted[digest]!r}"
            ways_out = f"Delete {store.address} and run `permafrost extract`, which reads by the keys of now."
            raise StaleStoreError(store.address, [differs], ways_out)
    return place


def _identity(config: PrecomputedConfig, cache: DigestCache | None) -> Identity:
    """What the numbers follow from: the bytes of the file, of its keys, and the columns."""
    path = Path(config.path)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    if path.suffix == ".npy":
        files.append(Path(config.keys) if config.keys is not None else path.with_suffix(".keys.txt"))
    digests: list[JSON] = []
    for file, read in zip(files, (cache or DigestCache()).digests([str(file) for file in files]), strict=True):
        if read.digest is None:
            raise RecordsError(f"{file}, which the features {config.name} are read from, {read.error}")
        digests.append(read.digest.hex())
    columns = {} if path.suffix == ".npy" else {"key": config.key, "vector": config.vector}
    return Identity({"kind": "precomputed", "name": config.name, "source": fingerprint(digests), **columns})


def _dim(config: PrecomputedConfig) -> int:
    path = Path(config.path)
    if path.suffix == ".npy":
        return int(read_vectors(config).vectors.shape[1])
    return int(_from_table(config, _read_table(path, first=True).slice(0, 1)).vectors.shape[1])
