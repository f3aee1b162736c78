"""The rows that a head learns from: where their features lie, and their labels and domains as integers."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cache import Features
from cache.fingerprint import digest_bytes
from stages.ranking.relevance import own_rows
from stages.records import Records
from stages.training.rows.fusion import FusedFeatures

if TYPE_CHECKING:
    from torch import Tensor

LARGE_BYTES = 8 * 2**30
"""Features of more bytes than this, as they are stored, stay on disk unless the settings say otherwise."""

_BLOCK = 8192


class RowSource(Protocol):
    """N records of V views each, view v of record n at place n * V + v."""

    def take(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.generic]:
        """The features (n, D) at ``places`` (n,)."""
        ...


class InMemory:
    """Features (N * V, D) in memory."""

    def __init__(self, features: npt.NDArray[np.generic]) -> None:
        self.features = features

    def take(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.generic]:
        """See :class:`RowSource`. With a mode other than the default numpy copies whole rows, ten times as fast."""
        return np.take(self.features, places, axis=0, mode="clip")


class Mapped:
    """Features read from the memory maps of the chunk files when they are needed, for sets larger than memory."""

    def __init__(self, features: Features, digests: Sequence[bytes]) -> None:
        self._features, self._digests = features, digests

    def take(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.generic]:
        """See :class:`RowSource`. Rows are read in the order of the records, each file from beginning to end."""
        order = np.argsort(places, kind="stable")
        records, views = np.divmod(places[order], self._features.views)
        rows = self._features.read_views([self._digests[record] for record in records.tolist()])
        features = np.empty((len(places), self._features.dim), rows.dtype)
        features[order] = rows[np.arange(len(rows)), views]
        return features


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """N records to train on: their features, and their labels and domains (N,) as integers from 0 without a gap.

    Iteration gives the first view of all records in blocks (n, D), in order, for statistics.
    """

    records: Records
    source: RowSource
    views: int
    blocks: tuple[int, ...]
    labels: npt.NDArray[np.int64]
    domains: npt.NDArray[np.int64]
    domain_names: tuple[str, ...]

    @classmethod
    def of(cls, features: Features, records: Records, *, mapped: bool = False) -> LabelledRows:
        """The rows of ``records``, which all have a feature and a label; ``mapped`` leaves their features on disk."""
        labels, _ = numbered(records.classes)
        domains, names = numbered(["" if domain is None else domain for domain in records.domains])
        source = source_of(features, records.digests, mapped=mapped)
        return cls(records, source, features.views, blocks_of(features), labels, domains, tuple(names))

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Tensor]:
        import torch

        for low in range(0, len(self), _BLOCK):
            places = np.arange(low, min(low + _BLOCK, len(self))) * self.views
            yield torch.from_numpy(self.source.take(places))

    def first_views(self) -> Tensor:
        """The first view of all records (N, D), in memory."""
        import torch

        if isinstance(self.source, InMemory) and self.views == 1:
            return torch.from_numpy(self.source.features)
        return torch.from_numpy(self.source.take(np.arange(len(self)) * self.views))


def in_training_order(records: Records, on_disk: Features | None = None) -> Records:
    """``records`` by digest, then label, so that a head does not depend on the order of a table's rows.

    Copies of one image with one label come by attributes, tags and key. With ``on_disk``, rows come in the order in
    which it stores them instead: a block shuffle reads neighbouring rows together.

    >>> table = pa.table({"key": ["a", "b"], "digest": [bytes([2] * 32), bytes([1] * 32)], "label": ["x", "y"]})
    >>> in_training_order(Records(table, {})).keys
    ['b', 'a']
    """
    table = records.table
    attributes = sorted(name for name in table.column_names if name.startswith("attributes."))
    columns = ["digest", "domain", "label", *attributes, "tags", "key"]
    columns = [name for name in columns if name in table.column_names]
    if on_disk is not None:
        stored = pa.array(on_disk.digests(), pa.binary(32))
        table = table.append_column("place", pc.index_in(table["digest"].cast(pa.binary(32)), value_set=stored))
        columns = ["place", *columns]
    return records.take(pc.sort_indices(table, sort_keys=[(name, "ascending") for name in columns]).to_numpy())


def numbered(names: Sequence[str | None]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """The number from 0 of each of ``names`` (N,), and the different names in the order of their numbers."""
    distinct = sorted({str(name) for name in names})
    numbers = {name: number for number, name in enumerate(distinct)}
    return np.array([numbers[str(name)] for name in names], dtype=np.int64), distinct


def blocks_of(features: Features) -> tuple[int, ...]:
    """The sizes of the features that stand side by side in a row; their sum is D."""
    return features.blocks if isinstance(features, FusedFeatures) else (features.dim,)


def gather(features: Features, records: Records) -> Tensor:
    """The features (N, D) of ``records``, in the stored dtype, in memory."""
    import torch

    return torch.from_numpy(np.asarray(features.read(records.digests)))


def source_of(features: Features, digests: Sequence[bytes], *, mapped: bool) -> RowSource:
    """The rows of ``digests`` (N,), all views: gathered into memory, or read from disk when they are needed."""
    return Mapped(features, digests) if mapped else InMemory(features.read_views(digests).reshape(-1, features.dim))


def rows_digest(records: Records) -> str:
    """The sha256 over the digests and labels of ``records``, in their order, 64 hexadecimal digits.

    Keys and paths are not in it: a head stays valid when an image is renamed.
    """
    classes = records.class_column.combine_chunks().dictionary_encode("encode")
    names = [b"" if name is None else b"=" + name.encode() for name in classes.dictionary.to_pylist()]
    labels = pa.array([struct.pack("<Q", len(name)) + name for name in names], pa.binary())
    whole = hashlib.sha256()
    for low in range(0, len(classes), _BLOCK):
        digests = records.digests[low : low + _BLOCK].column().cast(pa.binary()).fill_null(b"")
        pairs = pc.binary_join_element_wise(digests, labels.take(classes.indices[low : low + _BLOCK]), b"")
        whole.update(b"".join(pairs.to_pylist()))
    return whole.hexdigest()


def validation_digest(queries: Records, gallery: Records) -> list[str]:
    """What a validation score follows from besides the weights: both sets of rows, and which query is which row."""
    own = own_rows(queries.keys, gallery.keys).tolist()
    return [rows_digest(queries), rows_digest(gallery), digest_bytes(repr(own).encode()).hex()]
