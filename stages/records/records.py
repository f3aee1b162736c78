"""Records: a dataset as an Arrow table, one line an image, with the digest of its bytes.

A dataset is only a list of digests with names and labels beside them. Features are kept by digest, so nothing that
changes here (labels, splits, file names) computes a feature again.
"""

from __future__ import annotations

import mmap
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cache.digest_list import DigestIndex, Digests
from cache.digests import DigestCache
from cache.errors import MissingExtraError, MissingRowsError, SettingsError
from cache.features import Features
from stages.datasets import FolderConfig, SourceConfig, TableConfig
from stages.datasets.config import Names, Roles
from stages.records.reading import check_names, digest_part, join, read_parts
from stages.records.splits import DISTRACTORS, ROLES, seeded_order

COLUMNS = ("key", "uri", "digest", "problem", "label", "domain", "split", "tags")
_MANY = 1_000_000


@dataclass(frozen=True, repr=False)
class Records:
    """N records: the columns of ``COLUMNS`` and one ``attributes.<name>`` for each attribute.

    ``digest`` is the sha256 of the image's bytes, null where they could not be read (``problem`` says why).
    ``notes`` say what was decided as they were read, for people.

    >>> table = pa.table({"key": ["a", "b", "c"], "split": ["train", "test", "test"]})
    >>> Records(table, {"train": ("train",), "query": ("test",)}).split("query").keys
    ['b', 'c']
    """

    table: pa.Table
    roles: Roles
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        columns = set(self.table.column_names)
        facts = [f"{len(self):,} images"]
        if "label" in columns:
            facts.append(f"{pc.count_distinct(self.table['label']).as_py():,} labels")
        roles = self.roles if "split" in columns else ()
        facts += [f"{count:,} {role}" for role in roles if (count := len(self.split(role)))]
        return f"Records({', '.join(facts)})"

    @cached_property
    def keys(self) -> list[str]:
        """The stable name of each record, (N,)."""
        return self._column("key")

    @property
    def uris(self) -> list[str]:
        """Where each image is, (N,)."""
        return self._column("uri")

    @cached_property
    def digests(self) -> Digests:
        """The sha256 of each image's bytes, (N,); ``b""`` where they could not be read."""
        return Digests.from_column(self.table["digest"])

    @cached_property
    def labels(self) -> list[str | None]:
        """The instance or class of each record, (N,); None where it is not known."""
        return self._column("label")

    @property
    def has_labels(self) -> bool:
        """Whether any record has a label."""
        return bool(self.table["label"].null_count < len(self))

    @cached_property
    def classes(self) -> list[str | None]:
        """The class of each record, (N,): the label, within the domain where there is one."""
        return list(self.class_column.to_pylist())

    @property
    def class_column(self) -> pa.ChunkedArray:
        """:attr:`classes` as an Arrow column, for what looks at millions."""
        label, domain = (self.table[name].cast(pa.string()) for name in ("label", "domain"))
        return pc.coalesce(pc.binary_join_element_wise(domain, label, "\0"), label)

    @cached_property
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

    def split(self, *roles: str) -> Records:
        """The records of any of these roles: train, validation_query, validation_gallery, query, gallery.

        A record can have several: with leave-one-out each query is in the gallery too. A benchmark may have
        ``query_distractor`` and ``validation_query_distractor``: queries with no match.
        """
        for role in roles:
            if role not in (*ROLES, *DISTRACTORS):
                raise SettingsError(f"there is no role {role!r}; the roles are {', '.join((*ROLES, *DISTRACTORS))}")
        splits = [value for role in roles for value in self.roles.get(role, ())]
        return replace(self, table=self.table.filter(pc.is_in(self.table["split"], pa.array(splits, pa.string()))))

    def rows_in(self, store: Features) -> npt.NDArray[np.int64]:
        """The positions of the records whose image has a feature. MissingRowsError for one that nobody has tried."""
        digests = self.digests
        if absent := store.absent(digests):
            key = self.keys[digests.index(absent[0])]
            raise MissingRowsError(
                f"{store.address} has no row for {len(absent):,} of {len(self):,} images, the first of key {key!r}. "
                "Compute them first: permafrost extract."
            )
        return np.flatnonzero(store.usable(digests))

    def take(self, rows: Sequence[int] | npt.NDArray[np.integer]) -> Records:
        """The records at ``rows`` (n,), in that order."""
        wanted = np.asarray(rows, dtype=np.int64)
        if np.array_equal(wanted, np.arange(len(self))):
            return self
        return replace(self, table=self.table.take(pa.array(wanted)))

    def to_pandas(self) -> Any:  # a pandas.DataFrame
        """The records as a pandas DataFrame, a column each. MissingExtraError where pandas is not installed."""
        try:
            return self.table.to_pandas()
        except ImportError:
            raise MissingExtraError("pandas", "pandas") from None

    def unreadable(self) -> Records:
        """The records whose bytes could not be read."""
        return replace(self, table=self.table.filter(pc.is_null(self.table["digest"])))

    def counts(self) -> dict[str, int]:
        """Records, classes, images of each role, distractors, copies and unreadable images, by name."""
        number, named = self._class_numbers()
        has = {role: np.asarray(self._has(self.roles.get(role, ()))) for role in ROLES}
        searching, searched, sizes = (
            np.bincount(number[rows], minlength=len(named)) for rows in (has["query"], has["gallery"], np.s_[:])
        )
        queries = has["query"]
        to_find = searched[number[queries]] - has["gallery"][queries]
        in_gallery = number[has["gallery"]]
        digests = self.digests
        readable = digests.readable()
        trained = DigestIndex(digests.take(has["train"]).readable())
        return {
            "records": len(self),
            "classes": int(named.sum()),
            **{role: int(rows.sum()) for role, rows in has.items()},
            "classes of one image": int(((sizes == 1) & named).sum()),
            "distractors": int((~named[in_gallery] | (searching[in_gallery] == 0)).sum()),
            "queries with nothing in the gallery": int((to_find == 0).sum()),
            "records of no role": len(self) - int(self._has({v for vs in self.roles.values() for v in vs}).sum()),
            "byte-identical copies": len(readable) - len(readable.unique()),
            "queries whose bytes are trained on": int((trained.find(digests.take(queries)) >= 0).sum()),
            "unreadable": len(digests) - len(readable),
        }

    def _has(self, splits: Iterable[str]) -> npt.NDArray[np.bool_]:
        return np.asarray(pc.is_in(self.table["split"], pa.array([*splits], pa.string())))

    def _class_numbers(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """The number of each record's class (N,), and for each number whether that is a class, or stands for none."""
        label, domain = (_numbered(self.table[name]) for name in ("label", "domain"))
        pairs = np.where(label > 0, label + domain * (label.max(initial=0) + 1), 0)
        distinct, number = np.unique(pairs, return_inverse=True)
        return number, distinct > 0

    def distinct_classes(self) -> set[tuple[str | None, str | None]]:
        """The label and the domain of every class, and ``(None, None)`` where a record has no label."""
        pairs = self.table.select(["label", "domain"]).group_by(["label", "domain"]).aggregate([])
        labels, domains = (pairs[name].to_pylist() for name in ("label", "domain"))
        return {(label, domain if label is not None else None) for label, domain in zip(labels, domains, strict=True)}


def _numbered(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    numbers = column.cast(pa.large_string()).combine_chunks().dictionary_encode().indices
    return np.asarray(pc.fill_null(pc.add(numbers.cast(pa.int64()), 1), 0))


def read_records(
    dataset: SourceConfig | Sequence[SourceConfig] | Path | str,
    *,
    label: Names | None = None,
    seed: int = 0,
    digests: DigestCache | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Records:
    """Read a dataset: its configuration, several to be joined, or the path of a folder or table.

    Several are joined as :mod:`stages.records.reading` says, each with the splits and roles that it has alone; only
    splits that are made for datasets with ``classes_across_domains`` are made together. With a path, ``label`` names
    the label columns. ``seed`` makes the splits where a dataset has none. ``digests`` remembers the digests of
    unchanged files; by default every file is read. ``on_progress`` is called with how many have their digest. Raises
    RecordsError, which names the row; ValueError where one of several datasets has no name of its own.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cup/0.jpg", "cup/1.jpg", "mug/0.jpg"):
    ...         (Path(folder) / name).parent.mkdir(exist_ok=True)
    ...         _ = (Path(folder) / name).write_bytes(name.encode())
    ...     records = read_records(folder)
    >>> records.keys, records.labels
    (['cup/0.jpg', 'cup/1.jpg', 'mug/0.jpg'], ['cup', 'cup', 'mug'])
    """
    configs = _configs(dataset, label)
    check_names(configs)
    records = _read(configs, seed, digests or DigestCache(), on_progress)
    pa.default_memory_pool().release_unused()  # what reading needed and let go
    return records


def _read(
    configs: Sequence[SourceConfig], seed: int, digests: DigestCache, on_progress: Callable[[int], None] | None
) -> Records:
    parts, notes = read_parts(configs, seed)
    read: list[tuple[pa.ChunkedArray, pa.ChunkedArray]] = []
    for at, part in enumerate(parts):
        done = sum(len(digest) for digest, _ in read)
        parts[at], digest, problem = digest_part(part, digests, _counting_from(done, on_progress))
        read.append((digest, problem))
    table, roles = (parts[0].table, parts[0].roles) if len(parts) == 1 else join(parts)
    if "problem" in table.column_names:  # what was read has it
        table = table.drop_columns("problem")
    kinds = {"digest": pa.binary(32), "problem": pa.string()}
    for (name, kind), columns in zip(kinds.items(), zip(*read, strict=True), strict=True):
        table = table.append_column(name, pa.chunked_array([c for column in columns for c in column.chunks], kind))
    names = [*COLUMNS, *(name for name in table.column_names if name.startswith("attributes."))]
    folder = digests.path.parent if digests.path is not None else None
    return Records(_mapped(table.select(names), folder), roles, tuple(notes))


def _mapped(table: pa.Table, folder: Path | None) -> pa.Table:
    """``table`` with each column in one piece; of a million rows and more mapped from a nameless file in ``folder``."""
    table = table.combine_chunks()
    if folder is None or len(table) < _MANY:
        return table
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            with pa.ipc.new_file(file, table.schema) as writer:
                for batch in table.to_batches():
                    writer.write_batch(batch)
            file.flush()
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, pa.ArrowException):
        return table
    with pa.ipc.open_file(pa.py_buffer(content)) as opened:
        return opened.read_all()


def _counting_from(first: int, on_progress: Callable[[int], None] | None) -> Callable[[int], None] | None:
    return None if on_progress is None else lambda done: on_progress(first + done)


def _configs(
    dataset: SourceConfig | Sequence[SourceConfig] | Path | str, label: Names | None
) -> tuple[SourceConfig, ...]:
    if isinstance(dataset, SourceConfig):
        return (dataset,)
    if isinstance(dataset, (Path, str)):
        path = str(dataset)
        return (FolderConfig(path=path) if Path(dataset).is_dir() else TableConfig(path=path, label=label),)
    return tuple(dataset)


def balanced_subset(records: Records, count: int | None, seed: int, *, least: int = 1) -> Records:
    """``count`` of ``records`` (None: all), one of each class by turns, in the order of ``records``.

    A class comes in with ``least`` rows at once, and smaller classes do not; a remainder that is no class is left. With
    one seed, a smaller subset is a part of every larger one.
    """
    keys, classes = records.keys, [str(name) for name in records.classes]
    sizes = Counter(classes)
    large = [row for row in range(len(records)) if sizes[classes[row]] >= least]
    if count is None or count >= len(large):
        return records.take(large)
    if count < least * sum(size >= least for size in sizes.values()):
        count -= count % least
    counts = Counter[str]()
    turns = []
    for row in sorted(large, key=lambda row: seeded_order(seed, "row", keys[row])):
        counts[classes[row]] += 1
        turns.append((max(counts[classes[row]], least), seeded_order(seed, "class", classes[row]), row))
    return records.take(sorted(row for _, _, row in sorted(turns)[:count]))
