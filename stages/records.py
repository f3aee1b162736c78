"""Records: a dataset as an Arrow table, one line an image, with the digest of its bytes.

A dataset is only a list of digests with names and labels beside them. Features are kept by digest, so nothing that
changes here (labels, splits, file names) computes a feature again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cache.digests import DigestCache, FileDigest
from cache.errors import MissingRowsError, RecordsError
from cache.source import parse_source
from cache.store import FeatureStore
from stages.datasets import READERS, DatasetConfig
from stages.datasets.config import Names
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
    dataset: DatasetConfig | Path | str,
    *,
    label: Names | None = None,
    seed: int = 0,
    digests: DigestCache | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Records:
    """Read a dataset: a :class:`DatasetConfig`, or the path of a folder or table.

    Args:
        dataset: what to read. A path takes the defaults of :class:`DatasetConfig`.
        label: with a path, the label column or columns.
        seed: makes the splits where the dataset has none.
        digests: remembers the digests of unchanged files; by default every file is read.
        on_progress: hears how many files have their digest.

    Raises:
        RecordsError: a duplicate key, a missing label in train or query, an image that does not exist, an unknown
            split; the message names the row.
    """
    config = dataset if isinstance(dataset, DatasetConfig) else _config_of(Path(dataset), label)
    source = READERS[config.kind](config)
    table, made = source.table, not source.has_split
    keys, labels = table["key"].to_pylist(), table["label"].to_pylist()
    place = _places(table)
    _refuse_bad_keys(config, keys, place)
    if made and config.query is not None:
        by_file = ", or split = 'file' for the names of its files" if config.kind in ("parquet", "webdataset") else ""
        raise RecordsError(
            f"query and gallery name splits, but {config.path} has no split column; set split = ...{by_file}"
        )
    if made:
        made_splits = class_disjoint_splits(keys, labels, table["domain"].to_pylist(), config, seed)
        table = table.set_column(table.column_names.index("split"), "split", pa.array(made_splits, pa.string()))
    splits = table["split"].to_pylist()
    try:
        roles = named_roles(config, splits, keys)
        _refuse_missing_labels(keys, labels, splits, roles, place)
    except RecordsError as error:
        raise RecordsError(f"{config.path}: {error}") from None
    uris = table["uri"].to_pylist()
    problems: list[str | None] = [None] * len(uris)
    if "problem" in table.column_names:
        problems = table["problem"].to_pylist()
        table = table.drop_columns("problem")
    found = _digests(uris, problems, digests or DigestCache(), on_progress)
    if config.missing_images == "refuse":
        missing = [row for row, entry in enumerate(found) if not entry.digest and _is_missing(uris[row], problems[row])]
        if missing:
            _refuse_missing_images(missing, keys, uris, found, place)
    table = table.append_column("digest", pa.array([entry.digest for entry in found], pa.binary(32)))
    table = table.append_column("problem", pa.array([entry.error for entry in found], pa.string()))
    names = [*COLUMNS, *(name for name in table.column_names if name.startswith("attributes."))]
    return Records(table.select(names).combine_chunks(), roles)


def _config_of(path: Path, label: Names | None) -> DatasetConfig:
    return DatasetConfig(path=str(path), kind="folder" if path.is_dir() else "table", label=label)


def _places(table: pa.Table) -> Callable[[int], str]:
    """What messages call a row, by its position: as the reader says, or by its number from 1."""
    if "place" in table.column_names:
        return lambda row: str(table["place"][row])
    return lambda row: f"row {row + 1}"


def _digests(
    uris: Sequence[str],
    problems: Sequence[str | None],
    digests: DigestCache,
    on_progress: Callable[[int], None] | None,
) -> list[FileDigest]:
    """The digest of each image (N,), or why there is none: what the reader says, else what reading the image says."""
    listed = [uri for uri, problem in zip(uris, problems, strict=True) if problem is None]
    read = iter(digests.digests(listed, on_progress=on_progress))
    return [next(read) if problem is None else FileDigest(None, problem) for problem in problems]


def _is_missing(uri: str, problem: str | None) -> bool:
    """Whether an image without a digest is not there, rather than there in a file of its own and not readable."""
    source = parse_source(uri)
    within = source.stretch is not None or source.cell is not None
    return problem is not None or within or not os.path.lexists(source.path)


def _refuse_bad_keys(config: DatasetConfig, keys: Sequence[str | None], place: Callable[[int], str]) -> None:
    seen: dict[str, int] = {}
    for row, key in enumerate(keys):
        if key is None:
            raise RecordsError(f"{config.path}, {place(row)}: the key is empty; every record needs a name of its own")
        if (first := seen.setdefault(key, row)) != row:
            raise RecordsError(
                f"{config.path}: {place(first)} and {place(row)} have the same key {key!r}. "
                "Keys must differ; name another column with key = '...' under [dataset] of the run file, or drop a row."
            )


def _refuse_missing_labels(
    keys: Sequence[str],
    labels: Sequence[str | None],
    splits: Sequence[str | None],
    roles: Roles,
    place: Callable[[int], str],
) -> None:
    needing = {value: role for role in ("train", "query") for value in roles[role]}
    for row, (key, label, split) in enumerate(zip(keys, labels, splits, strict=True)):
        if label is None and split in needing:
            raise RecordsError(
                f"{place(row)} (key {key!r}) is in {needing[split]} (split {split!r}) and has no label. "
                "Only gallery images may lack one: label it, or move it to a split of its own."
            )


def _refuse_missing_images(
    missing: Sequence[int],
    keys: Sequence[str],
    uris: Sequence[str],
    found: Sequence[FileDigest],
    place: Callable[[int], str],
) -> None:
    first, more = missing[0], len(missing) - 1
    path = parse_source(uris[first]).path
    if os.path.lexists(path):
        what = f"has no image: {found[first].error}" + (f"; nor have {more:,} rows more" if more else "")
        mend = "Mend or drop it"
    else:
        what = f"names {path}, which does not exist" + (f"; so do {more:,} rows more" if more else "")
        mend = "Correct the table (image paths are relative to root, by default the table's folder)"
    raise RecordsError(
        f"{place(first)} (key {keys[first]!r}) {what}. {mend}, or set missing_images = 'record' under [dataset] of the "
        "run file to list such images as failed and go on."
    )
