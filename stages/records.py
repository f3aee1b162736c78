"""Records: a dataset as an Arrow table, one line an image, with the digest of its bytes.

A dataset is only a list of digests with names and labels beside them. Features are kept by digest, so nothing that
changes here (labels, splits, file names) computes a feature again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cache.digests import DigestCache
from cache.errors import MissingRowsError, RecordsError
from cache.store import FeatureStore
from stages.datasets import READERS, DatasetConfig
from stages.datasets.config import Names
from stages.joined import Part, check_names, join
from stages.splits import ROLES, Roles, class_disjoint_splits, named_roles

COLUMNS = ("key", "uri", "digest", "problem", "label", "domain", "split", "tags")


@dataclass(frozen=True)
class Records:
    """N records: the columns of ``COLUMNS`` and one ``attributes.<name>`` for each attribute.

    ``digest`` is the sha256 of the image's bytes, null where they could not be read (``problem`` says why).
    """

    table: pa.Table
    roles: Roles

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def keys(self) -> list[str]:
        """The stable name of each record, (N,)."""
        return self._column("key")

    @property
    def uris(self) -> list[str]:
        """Where each image is, (N,)."""
        return self._column("uri")

    @property
    def digests(self) -> list[bytes]:
        """The sha256 of each image's bytes, (N,); ``b""`` where they could not be read."""
        return [digest or b"" for digest in self._column("digest")]

    @property
    def labels(self) -> list[str | None]:
        """What each record is, (N,); None where that is not known."""
        return self._column("label")

    @property
    def classes(self) -> list[str | None]:
        """What tells records apart, (N,): the label, within the domain where there is one."""
        return [
            label if label is None or domain is None else f"{domain}\0{label}"
            for label, domain in zip(self.labels, self.domains, strict=True)
        ]

    @property
    def domains(self) -> list[str | None]:
        """The domain of each record, (N,)."""
        return self._column("domain")

    @property
    def splits(self) -> list[str | None]:
        """The split of each record, (N,)."""
        return self._column("split")

    def attribute(self, name: str) -> list[str | None]:
        """One attribute of each record, (N,)."""
        return self._column(f"attributes.{name}")

    def _column(self, name: str) -> list:  # type: ignore[type-arg]  # what is in it depends on the column
        return list(self.table[name].to_pylist())

    def split(self, role: str) -> Records:
        """The records of a role: ``train``, ``validation_query``, ``validation_gallery``, ``query`` or ``gallery``.

        A record can have several roles: with leave-one-out each query is in the gallery too.
        """
        if role not in ROLES:
            raise ValueError(f"there is no role {role!r}; the roles are {', '.join(ROLES)}")
        mask = pc.is_in(self.table["split"], pa.array(self.roles[role], pa.string()))
        return replace(self, table=self.table.filter(mask))

    def rows_in(self, store: FeatureStore) -> npt.NDArray[np.int64]:
        """The positions of the records whose image has a stored feature; the images that failed are left out.

        Raises :class:`MissingRowsError` for an image that nobody has tried to compute.
        """
        digests = self.digests
        if absent := store.absent(digests):
            key = self.keys[digests.index(absent[0])]
            raise MissingRowsError(
                f"{store.path} has no row for {len(absent):,} of {len(self):,} images, the first of key {key!r}. "
                "Compute them first: permafrost extract."
            )
        return np.flatnonzero(store.usable(digests))

    def take(self, rows: Sequence[int] | npt.NDArray[np.integer]) -> Records:
        """The records at ``rows`` (n,), in that order."""
        return replace(self, table=self.table.take(pa.array(np.asarray(rows, dtype=np.int64))))

    def unreadable(self) -> Records:
        """The records whose bytes could not be read."""
        return replace(self, table=self.table.filter(pc.is_null(self.table["digest"])))

    def counts(self) -> dict[str, int]:
        """What a person wants to know before a run: records, classes, images a role, distractors, duplicates."""
        classes = Counter(name for name in self.classes if name is not None)
        query, gallery = self.split("query"), self.split("gallery")
        searching, searched = Counter(query.classes), Counter(gallery.classes)
        keys = set(gallery.keys)
        to_find = [searched[name] - (key in keys) for key, name in zip(query.keys, query.classes, strict=True)]
        used = {value for values in self.roles.values() for value in values}
        digests = Counter(digest for digest in self.digests if digest)
        trained = set(self.split("train").digests)
        return {
            "records": len(self),
            "classes": len(classes),
            **{role: len(self.split(role)) for role in ROLES},
            "classes of one image": sum(count == 1 for count in classes.values()),
            "distractors": sum(name is None or name not in searching for name in gallery.classes),
            "queries with nothing in the gallery": to_find.count(0),
            "records of no role": sum(split not in used for split in self.splits),
            "byte-identical copies": sum(count - 1 for count in digests.values()),
            "queries whose bytes are trained on": sum(digest in trained for digest in query.digests if digest),
            "unreadable": len(self.unreadable()),
        }


def read_records(
    dataset: DatasetConfig | Sequence[DatasetConfig] | Path | str,
    *,
    label: Names | None = None,
    seed: int = 0,
    digests: DigestCache | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Records:
    """Read a dataset: a :class:`DatasetConfig`, several to be joined, or the path of a folder or table.

    Args:
        dataset: what to read. A path takes the defaults of :class:`DatasetConfig`. Several are joined as
            :mod:`stages.joined` says, each with the splits and roles that it has alone.
        label: with a path, the label column or columns.
        seed: makes the splits where a dataset has none.
        digests: remembers the digests of unchanged files; by default every file is read.
        on_progress: hears how many files have their digest.

    Raises:
        RecordsError: a duplicate key, a missing label in train or query, a file that does not exist, an unknown
            split; the message names the row, and the dataset where that has a name.
        ValueError: several datasets of which two have the same name, or one has none.
    """
    configs = _configs(dataset, label)
    check_names(configs)
    parts = [_read_part(config, seed) for config in configs]
    table, roles = parts[0] if len(parts) == 1 else join(parts, [str(config.name) for config in configs])
    uris = table["uri"].to_pylist()
    found = (digests or DigestCache()).digests(uris, on_progress=on_progress)
    first = 0
    for config, part in zip(configs, parts, strict=True):
        rows = slice(first, first + part.table.num_rows)
        first = rows.stop
        if config.missing_images == "refuse":
            with _naming(config):
                keys = part.table["key"].to_pylist()
                _refuse_missing_files(keys, uris[rows], [entry.digest for entry in found[rows]])
    table = table.append_column("digest", pa.array([entry.digest for entry in found], pa.binary(32)))
    table = table.append_column("problem", pa.array([entry.error for entry in found], pa.string()))
    names = [*COLUMNS, *(name for name in table.column_names if name.startswith("attributes."))]
    return Records(table.select(names).combine_chunks(), roles)


def _configs(
    dataset: DatasetConfig | Sequence[DatasetConfig] | Path | str, label: Names | None
) -> tuple[DatasetConfig, ...]:
    if isinstance(dataset, DatasetConfig):
        return (dataset,)
    if isinstance(dataset, (Path, str)):
        path = Path(dataset)
        return (DatasetConfig(path=str(path), kind="folder" if path.is_dir() else "table", label=label),)
    return tuple(dataset)


def _read_part(config: DatasetConfig, seed: int) -> Part:
    """One dataset with the split of every row, and its roles."""
    with _naming(config):
        source = READERS[config.kind](config)
        table = source.table
        keys, labels = table["key"].to_pylist(), table["label"].to_pylist()
        _refuse_bad_keys(config, keys)
        if not source.has_split and config.query is not None:
            raise RecordsError(f"query and gallery name splits, but {config.path} has no split column; set split = ...")
        if not source.has_split:
            made = class_disjoint_splits(keys, labels, table["domain"].to_pylist(), config, seed)
            table = table.set_column(table.column_names.index("split"), "split", pa.array(made, pa.string()))
        splits = table["split"].to_pylist()
        try:
            roles = named_roles(config, splits, keys)
            _refuse_missing_labels(keys, labels, splits, roles)
        except RecordsError as error:
            raise RecordsError(f"{config.path}: {error}") from None
        return Part(table, roles)


@contextmanager
def _naming(config: DatasetConfig) -> Iterator[None]:
    """Begin the message of a RecordsError with the name of the dataset, where it has one."""
    try:
        yield
    except RecordsError as error:
        if config.name is None:
            raise
        raise RecordsError(f"dataset {config.name!r}: {error}") from None


def _refuse_bad_keys(config: DatasetConfig, keys: Sequence[str | None]) -> None:
    seen: dict[str, int] = {}
    for row, key in enumerate(keys, 1):
        if key is None:
            raise RecordsError(f"{config.path}, row {row}: the key is empty; every record needs a name of its own")
        if first := seen.get(key):
            raise RecordsError(
                f"{config.path}: rows {first} and {row} have the same key {key!r}. "
                "Keys must differ; name another column with key = '...' under [dataset] of the run file, or drop a row."
            )
        seen[key] = row


def _refuse_missing_labels(
    keys: Sequence[str], labels: Sequence[str | None], splits: Sequence[str | None], roles: Roles
) -> None:
    needing = {value: role for role in ("train", "query") for value in roles[role]}
    for row, (key, label, split) in enumerate(zip(keys, labels, splits, strict=True), 1):
        if label is None and split in needing:
            raise RecordsError(
                f"row {row} (key {key!r}) is in {needing[split]} (split {split!r}) and has no label. "
                "Only gallery images may lack one: label it, or move it to a split of its own."
            )


def _refuse_missing_files(keys: Sequence[str], uris: Sequence[str], digests: Sequence[bytes | None]) -> None:
    unread = (row for row, digest in enumerate(digests) if digest is None)
    absent = [row for row in unread if not os.path.lexists(uris[row])]
    if absent:
        first = absent[0]
        raise RecordsError(
            f"row {first + 1} (key {keys[first]!r}) names {uris[first]}, which does not exist"
            + (f"; so do {len(absent) - 1:,} rows more" if len(absent) > 1 else "")
            + ". Correct the table (image paths are relative to root, by default the table's folder), "
            "or set missing_images = 'record' under [dataset] of the run file to list such images as failed and go on."
        )
