"""Where each digest's row is, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cache.digest_list import DigestIndex, Digests, Places, as_digests
from cache.rows import SCHEMA, Checksums, RowOutcome


class RowIndex:
    """Where each digest's row is, over all committed chunks (N rows).

    A digest can have several rows (a failed one, then one that a later run got right): an ``ok`` row counts before a
    ``failed`` one, and that before an ``unread`` one; among equals the first, which holds the same numbers. A *place*
    is a position in :attr:`table`, which is in this order; -1 stands for no row.
    """

    def __init__(self, chunks: Mapping[int, pa.Table], chunk_rows: int) -> None:
        numbers = sorted(chunks)
        table = pa.concat_tables([SCHEMA.empty_table(), *(chunks[n].select(SCHEMA.names) for n in numbers)])
        starts = [np.arange(chunks[n].num_rows, dtype=np.int64) + n * chunk_rows for n in numbers]
        rows = np.concatenate(starts) if starts else np.empty(0, np.int64)
        rank = np.asarray(pc.index_in(table["status"], pa.array(["ok", "failed", "unread"])))
        if rank.any():  # otherwise all rows are ok and in order
            order = np.argsort(rank, kind="stable")
            table, rows, rank = table.take(order), rows[order], rank[order]
        self.table = table
        # Each has one more entry, for place -1.
        self._rows: npt.NDArray[np.int64] = np.append(rows, -1)
        self._ok: npt.NDArray[np.bool_] = np.append(rank == 0, False)
        self._settled: npt.NDArray[np.bool_] = np.append(rank < 2, False)
        checksums = pc.fill_null(pc.coalesce(table["made_from"], table["crc32c"]), 0)
        self._checksums: Checksums = np.append(checksums.to_numpy(), np.uint32(0))
        self._digests = Digests.from_column(table["digest"])
        self._places = DigestIndex(self._digests)
        self._unique = self._places.unique

    def find(self, digests: Sequence[bytes]) -> Places:
        """The place of each of ``digests`` (n,), -1 where there is none.

        ``b""`` stands for an image that could not be read, and is nowhere.
        """
        wanted = as_digests(digests)
        if self._unique and wanted.known is None and np.array_equal(wanted.words, self._digests.words):
            return np.arange(len(wanted))  # a finished dataset, in the order in which it was extracted
        return self._places.find(wanted)

    def rows(self, places: Places) -> npt.NDArray[np.int64]:
        """The row number (n,) at each of ``places`` (n,), -1 where there is none."""
        return self._rows[places]

    def good(self, places: Places) -> npt.NDArray[np.bool_]:
        """True for each of ``places`` (n,) that has a stored feature."""
        return self._ok[places]

    def settled(self, places: Places) -> npt.NDArray[np.bool_]:
        """True for each of ``places`` (n,) that has a stored feature, or has failed for good."""
        return self._settled[places]

    def good_places(self) -> Places:
        """The place of every digest with a stored feature, each once, in row order."""
        places = self._counting(np.flatnonzero(self._ok))
        return places[np.argsort(self._rows[places], kind="stable")]

    def bad_places(self) -> Places:
        """The place of every digest without a stored feature, each once: failed ones, then unread ones."""
        return self._counting(np.flatnonzero(~self._ok[:-1]))

    def _counting(self, places: Places) -> Places:
        """Those of ``places`` whose row is the one that counts for its digest."""
        return places if self._unique else places[self._places.find(self._digests.take(places)) == places]

    def digests(self, places: Places) -> Digests:
        """The digest at each of ``places`` (n,)."""
        return self._digests.take(places)

    def checksums(self, places: Places) -> Checksums:
        """What the row at each of ``places`` (n,) was made from, or where that is not recorded its own checksum."""
        return self._checksums[places]

    def outcome(self, place: int) -> RowOutcome:
        """The outcome at ``place`` of :attr:`table`."""
        return RowOutcome(*(self.table[field][place].as_py() for field in RowOutcome._fields))
