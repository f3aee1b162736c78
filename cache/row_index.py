"""Where each digest's row is, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cache.digest_list import DigestIndex, Digests, Places, as_digests
from cache.rows import SCHEMA, Checksums, RowOutcome

STATUSES = ("ok", "failed", "unread")
"""By rank: of several rows of a digest the first of the lowest rank counts."""


class RowIndex:
    """Where each digest's row is, over all committed chunks (N rows).

    A digest can have several rows (a failed one, then one that a later run got right): an ``ok`` row counts before a
    ``failed`` one, and that before an ``unread`` one; among equals the first, which holds the same numbers. A *place*
    is a position in :attr:`table`, which has the chunks in their order; -1 stands for no row.

    Args:
        table: the rows of all chunks, in the order of their numbers.
        rank: the place of each row's status (N,) in ``STATUSES``.
        index: of the table's digests.
        lengths: the rows of each chunk, by ascending number.
        chunk_rows: the rows that a chunk has room for.
    """

    def __init__(
        self,
        table: pa.Table,
        rank: npt.NDArray[np.int8],
        index: DigestIndex,
        lengths: Mapping[int, int],
        chunk_rows: int,
    ) -> None:
        self.table = table
        self._rank = rank
        self._index = index
        self._digests = index.digests
        self._unique = index.unique
        self._chunk_rows = chunk_rows
        # Each has one more entry, for place -1.
        self._starts = np.cumsum([0, *lengths.values()])
        self._numbers = np.array([*lengths, 0], np.int64)

    @classmethod
    def of_chunks(cls, chunks: Mapping[int, pa.Table], chunk_rows: int) -> RowIndex:
        """The index of ``chunks``, by ascending number."""
        table = pa.concat_tables([SCHEMA.empty_table(), *(rows.select(SCHEMA.names) for rows in chunks.values())])
        rank = cls.ranks(table["status"])
        index = DigestIndex(Digests.from_column(table["digest"]), rank)
        return cls(table, rank, index, {number: len(rows) for number, rows in chunks.items()}, chunk_rows)

    @staticmethod
    def ranks(status: pa.ChunkedArray) -> npt.NDArray[np.int8]:
        """The place of each status (N,) in ``STATUSES``."""
        return np.asarray(pc.index_in(status, pa.array(STATUSES))).astype(np.int8)

    def find(self, digests: Sequence[bytes]) -> Places:
        """The place of each of ``digests`` (n,), -1 where there is none.

        ``b""`` stands for an image that could not be read, and is nowhere.
        """
        wanted = as_digests(digests)
        if self._unique and wanted.known is None and np.array_equal(wanted.words, self._digests.words):
            return np.arange(len(wanted))  # a finished dataset, in the order in which it was extracted
        return self._index.find(wanted)

    def rows(self, places: Places) -> npt.NDArray[np.int64]:
        """The row number (n,) at each of ``places`` (n,), -1 where there is none."""
        chunk = np.searchsorted(self._starts, places, side="right") - 1
        return np.where(places < 0, -1, self._numbers[chunk] * self._chunk_rows + places - self._starts[chunk])

    def good(self, places: Places) -> npt.NDArray[np.bool_]:
        """True for each of ``places`` (n,) that has a stored feature."""
        return self._ranked_below(1, places)

    def settled(self, places: Places) -> npt.NDArray[np.bool_]:
        """True for each of ``places`` (n,) that has a stored feature, or has failed for good."""
        return self._ranked_below(2, places)

    def _ranked_below(self, rank: int, places: Places) -> npt.NDArray[np.bool_]:
        there: npt.NDArray[np.bool_] = places >= 0
        there[there] = self._rank[places[there]] < rank
        return there

    def good_places(self) -> Places:
        """The place of every digest with a stored feature, each once, in row order."""
        return self._counting(np.flatnonzero(self._rank == 0))

    def bad_places(self) -> Places:
        """The place of every digest without a stored feature, each once: failed ones, then unread ones."""
        return self._counting(np.concatenate([np.flatnonzero(self._rank == rank) for rank in (1, 2)]))

    def _counting(self, places: Places) -> Places:
        """Those of ``places`` whose row is the one that counts for its digest."""
        return places if self._unique else places[self._index.find(self._digests.take(places)) == places]

    def digests(self, places: Places) -> Digests:
        """The digest at each of ``places`` (n,)."""
        return self._digests.take(places)

    def checksums(self, places: Places) -> Checksums:
        """What the row at each of ``places`` (n,) was made from, or where that is not recorded its own checksum."""
        return self._checksums[places]

    @cached_property
    def _checksums(self) -> Checksums:
        checksums = pc.fill_null(pc.coalesce(self.table["made_from"], self.table["crc32c"]), 0)
        return np.append(checksums.to_numpy(), np.uint32(0))

    def outcome(self, place: int) -> RowOutcome:
        """The outcome at ``place`` of :attr:`table`."""
        return RowOutcome(*(self.table[field][place].as_py() for field in RowOutcome._fields))
