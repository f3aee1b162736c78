"""The rows that a head learns from: where their features lie, and their labels and domains as integers."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

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
_ROWS_AT_ONCE = 4096  # gathered together: one batch at a time would pay the overhead of numpy for each

Places: TypeAlias = npt.NDArray[np.int64]
Take: TypeAlias = Callable[[Places], npt.NDArray[np.generic]]
"""The features (n, D) at places (n,): of N records of V views each, view v of record r is at place r * V + v."""


def gathered(vectors: npt.NDArray[np.generic], places: Places) -> npt.NDArray[np.generic]:
    """The rows at ``places`` of ``vectors`` (N * V, D) in memory; this mode copies whole rows, ten times as fast."""
    return np.take(vectors, places, axis=0, mode="clip")


def from_disk(features: Features, digests: Sequence[bytes], places: Places) -> npt.NDArray[np.generic]:
    """The rows at ``places`` of ``digests`` (N,), read in the order of the records, each file from beginning to end."""
    order = np.argsort(places, kind="stable")
    records, views = np.divmod(places[order], features.views)
    rows = features.read_views([digests[record] for record in records.tolist()])
    taken = np.empty((len(places), features.dim), rows.dtype)
    taken[order] = rows[np.arange(len(rows)), views]
    return taken


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """N records to train on, with labels and domains (N,) as integers from 0 without a gap.

    ``vectors`` (N * V, D) are their features in memory, None where they stay on disk. Iteration gives the first view
    of all records in blocks (n, D), in order, for statistics.
    """

    records: Records
    features: Features
    vectors: npt.NDArray[np.generic] | None
    labels: npt.NDArray[np.int64]
    domains: npt.NDArray[np.int64]
    domain_names: list[str]

    @classmethod
    def of(cls, features: Features, records: Records, *, mapped: bool = False) -> LabelledRows:
        """The rows of ``records``, which all have a feature and a label; ``mapped`` leaves their features on disk."""
        labels, _ = numbered(records.classes)
        vectors = None if mapped else features.read_views(records.digests).reshape(-1, features.dim)
        return cls(records, features, vectors, labels, *numbered([domain or "" for domain in records.domains]))

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Tensor]:
        for low in range(0, len(self), _BLOCK):
            yield self._first_views(low, min(low + _BLOCK, len(self)))

    @property
    def views(self) -> int:
        """V."""
        return self.features.views

    @property
    def blocks(self) -> tuple[int, ...]:
        """The sizes of the features that stand side by side in a row."""
        return self.features.blocks if isinstance(self.features, FusedFeatures) else (self.features.dim,)

    def take(self, places: Places) -> npt.NDArray[np.generic]:
        """See :data:`Take`."""
        if self.vectors is None:
            return from_disk(self.features, self.records.digests, places)
        return gathered(self.vectors, places)

    def first_views(self) -> Tensor:
        """The first view of all records (N, D), in memory."""
        return self._first_views(0, len(self))

    def _first_views(self, low: int, high: int) -> Tensor:
        import torch

        if self.vectors is not None:
            first = self.vectors[low * self.views : high * self.views : self.views]
            return torch.from_numpy(np.ascontiguousarray(first))
        return torch.from_numpy(self.take(np.arange(low, high) * self.views))


def prefetch(
    take: Take, labels: npt.NDArray[np.int64], batches: Sequence[Places], places: Places
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The rows (B, D), labels (B,) and record numbers (B,) of each of ``batches`` of record numbers.

    ``places`` (N,) are those of the records in this epoch. Some thousands of rows are gathered at once, by a thread,
    while the steps before them are computed; it computes nothing, so the results do not depend on it.
    """
    import torch

    each = max(1, _ROWS_AT_ONCE // max(len(batch) for batch in batches))
    groups = [batches[low : low + each] for low in range(0, len(batches), each)]

    def gather(group: Sequence[Places]) -> tuple[Tensor, Tensor, Tensor]:
        records = np.concatenate(group)
        rows, classes = take(places[records]), labels[records]
        return torch.from_numpy(rows), torch.from_numpy(classes), torch.from_numpy(records)

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(gather, groups[0])
        for group, following in zip(groups, [*groups[1:], None], strict=True):
            parts, sizes = ahead.result(), [len(batch) for batch in group]
            if following is not None:
                ahead = pool.submit(gather, following)
            yield from zip(*(torch.split(part, sizes) for part in parts), strict=True)


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


def gather(features: Features, records: Records) -> Tensor:
    """The features (N, D) of ``records``, in the stored dtype, in memory."""
    import torch

    return torch.from_numpy(np.asarray(features.read(records.digests)))


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
