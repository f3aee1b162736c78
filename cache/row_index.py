"""Where each digest's row is: the digests sorted once, then a binary search for every question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cache.rows import SCHEMA, Checksums, RowOutcome

_DIGEST_BYTES = 32
_WORDS = _DIGEST_BYTES // 8

Places = npt.NDArray[np.int64]


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
        # A digest is four words of 64 bits. The first is as good as random, so it is what is sorted and searched; rows
        # that share it stand together in the order of the table, and the other words decide.
        self._digests = _column_words(table["digest"])  # (N, 4)
        self._order = np.argsort(self._digests[:, 0], kind="stable")
        self._sorted = self._digests[self._order, 0]
        self._unique = not (self._sorted[1:] == self._sorted[:-1]).any()

    def find(self, digests: Sequence[bytes]) -> Places:
        """The place of each of ``digests`` (n,), -1 where there is none.

        ``b""`` stands for an image that could not be read, and is nowhere.
        """
        wanted, known = _words(digests)
        if self._unique and known.all() and np.array_equal(wanted, self._digests):
            return np.arange(len(wanted))  # a finished dataset, in the order in which it was extracted
        return self._search(wanted, np.flatnonzero(known))

    def _search(self, wanted: npt.NDArray[np.uint64], pending: Places) -> Places:
        """The places of the digests ``wanted`` (n, 4) at the positions ``pending``, -1 elsewhere."""
        places = np.full(len(wanted), -1, np.int64)
        ascending = np.argsort(wanted[:, 0])  # searched in this order, four times as fast
        at = np.empty(len(wanted), np.int64)
        at[ascending] = np.searchsorted(self._sorted, wanted[ascending, 0])
        while len(pending):
            pending = pending[at[pending] < len(self._sorted)]
            pending = pending[self._sorted[at[pending]] == wanted[pending, 0]]
            candidates = self._order[at[pending]]
            equal = (self._digests[candidates] == wanted[pending]).all(axis=1)
            places[pending[equal]] = candidates[equal]
            pending = pending[~equal]
            at[pending] += 1
        return places

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
        return places if self._unique else places[self._search(self._digests[places], np.arange(len(places))) == places]

    def digests(self, places: Places) -> list[bytes]:
        """The digest at each of ``places`` (n,)."""
        return self._digests[places].view(f"V{_DIGEST_BYTES}").ravel().tolist()

    def checksums(self, places: Places) -> Checksums:
        """What the row at each of ``places`` (n,) was made from, or where that is not recorded its own checksum."""
        return self._checksums[places]

    def outcome(self, place: int) -> RowOutcome:
        """The outcome at ``place`` of :attr:`table`."""
        return RowOutcome(*(self.table[field][place].as_py() for field in RowOutcome._fields))


def _words(digests: Sequence[bytes]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """``digests`` (n,) as words (n, 4), and which of them are digests at all."""
    known = np.fromiter(map(len, digests), np.int64, len(digests)) == _DIGEST_BYTES
    if not known.all():
        digests = [digest if len(digest) == _DIGEST_BYTES else bytes(_DIGEST_BYTES) for digest in digests]
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, _WORDS), known


def _column_words(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """The words (N, 4) of a column of digests, not copied."""
    array = column.combine_chunks()
    content = array.buffers()[1]
    words = np.frombuffer(content, np.uint64) if content is not None else np.empty(0, np.uint64)
    return words.reshape(-1, _WORDS)[array.offset : array.offset + len(array)]
