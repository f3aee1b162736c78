"""Digests by the million: 32 bytes each in one buffer, without a Python object for each, and where each of them is."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

DIGEST_BYTES = 32
_WORDS = DIGEST_BYTES // 8
_COLUMN = pa.binary(DIGEST_BYTES)
_AT_ONCE = 4096

Places = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]


class Digests(Sequence[bytes]):
    """A sequence of N digests; ``b""`` stands for an image that could not be read. Equal to a list of the same bytes.

    ``words`` (N, 4) are their bytes, ``known`` (N,) is False where there is no digest, None where all are known.

    >>> digests = as_digests([bytes(32), b"", b"x" * 32])
    >>> digests == [bytes(32), b"", b"x" * 32], digests[1:] == [b"", b"x" * 32], len(digests)
    (True, True, 3)
    """

    __slots__ = ("known", "words")

    def __init__(self, words: Words, known: npt.NDArray[np.bool_] | None = None) -> None:
        self.words = words
        self.known = known

    @classmethod
    def from_column(cls, column: pa.ChunkedArray | pa.Array) -> Digests:
        """The digests of an Arrow column of 32 bytes, not copied where it is in one piece; null is ``b""``."""
        array = column
        if isinstance(column, pa.ChunkedArray):
            array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        if array.type != _COLUMN:
            array = array.cast(_COLUMN)
        content, end = array.buffers()[1], array.offset + len(array)
        words = np.frombuffer(content, np.uint64, end * _WORDS) if end else np.empty(0, np.uint64)
        words = words.reshape(-1, _WORDS)[array.offset :]
        return cls(words, np.asarray(array.is_valid()) if array.null_count else None)

    def column(self) -> pa.Array:
        """The digests as an Arrow array, null where there is none; not copied."""
        content = np.ascontiguousarray(self.words)
        valid = None if self.known is None else pa.array(self.known).buffers()[1]
        return pa.Array.from_buffers(_COLUMN, len(self), [valid, pa.py_buffer(content)])

    def __len__(self) -> int:
        return len(self.words)

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> Digests: ...
    def __getitem__(self, at: int | slice) -> bytes | Digests:
        if isinstance(at, slice):
            return self.take(at)
        at = operator.index(at)
        return b"" if self.known is not None and not self.known[at] else self.words[at].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        for low in range(0, len(self), _AT_ONCE):
            words = np.ascontiguousarray(self.words[low : low + _AT_ONCE])
            part: list[bytes] = words.view(f"V{DIGEST_BYTES}").ravel().tolist()
            if self.known is not None:
                known = self.known[low : low + _AT_ONCE].tolist()
                part = [digest if there else b"" for digest, there in zip(part, known, strict=True)]
            yield from part

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (str, bytes)) or not isinstance(other, Sequence):
            return NotImplemented
        if len(self) != len(other):
            return False
        if not isinstance(other, Digests):
            return all(map(operator.eq, self, other))
        both = self.all_known(), other.all_known()
        return np.array_equal(*both) and np.array_equal(self.words[both[0]], other.words[both[0]])

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __repr__(self) -> str:
        first = ", ".join(digest.hex()[:16] or "none" for digest in self[:3])
        return f"Digests({len(self):,}: {first}{', ...' if len(self) > 3 else ''})"

    def all_known(self) -> npt.NDArray[np.bool_]:
        """True (N,) where there is a digest."""
        return np.ones(len(self), np.bool_) if self.known is None else self.known

    def take(self, rows: slice | npt.NDArray[Any]) -> Digests:
        """The digests at ``rows``: a slice, which copies nothing, numbers (n,), or a mask (N,)."""
        return Digests(self.words[rows], None if self.known is None else self.known[rows])

    def readable(self) -> Digests:
        """Those that are digests; itself where all are."""
        return self if self.known is None else Digests(self.words[self.known])

    def unique(self) -> Digests:
        """Each digest once, and ``b""`` once, in order of first appearance; itself where that is so already."""
        if self.known is None and not _any_twice(np.sort(self.words[:, 0])):
            return self
        places = DigestIndex(self).find(self)
        first = places == np.arange(len(self))
        if self.known is not None:
            first[np.flatnonzero(~self.known)[:1]] = True
        return self if first.all() else self.take(first)


class DigestIndex:
    """Where each of N ``digests`` is: of equal ones the first of the lowest ``rank`` (N,), without ranks the first."""

    def __init__(self, digests: Digests, rank: npt.NDArray[np.int8] | None = None) -> None:
        # A digest is four words of 64 bits. The first is as good as random, so it is what is sorted and searched; rows
        # that share it stand together in their order, and the other words decide.
        self.digests = digests
        rows = None if digests.known is None else np.flatnonzero(digests.known)
        if rank is not None and rank.any():
            rows = np.argsort(rank, kind="stable") if rows is None else rows[np.argsort(rank[rows], kind="stable")]
        first = digests.words[:, 0] if rows is None else digests.words[rows, 0]
        order = np.argsort(first, kind="stable")
        self.words: npt.NDArray[np.uint64] = first[order]  # the first words in their order
        self.order: Places = order if rows is None else rows[order]  # where each of them is

    @classmethod
    def made(cls, digests: Digests, order: Places, words: npt.NDArray[np.uint64]) -> DigestIndex:
        """The index that had this ``order`` and these ``words``."""
        index = cls.__new__(cls)
        index.digests, index.order, index.words = digests, order, words
        return index

    @property
    def unique(self) -> bool:
        """Whether no two digests are known to be equal: their first words all differ."""
        return not _any_twice(self.words)

    def find(self, digests: Sequence[bytes]) -> Places:
        """The place (n,) of each of ``digests`` (n,), -1 where there is none, as for ``b""``."""
        sought = as_digests(digests)
        wanted = sought.words
        places = np.full(len(wanted), -1, np.int64)
        ascending = np.argsort(wanted[:, 0])  # searched in this order, four times as fast
        at = np.empty(len(wanted), np.int64)
        at[ascending] = np.searchsorted(self.words, wanted[ascending, 0])
        del ascending
        pending = np.flatnonzero(sought.all_known())
        while len(pending):
            pending = pending[at[pending] < len(self.words)]
            pending = pending[self.words[at[pending]] == wanted[pending, 0]]
            candidates = self.order[at[pending]]
            equal = (self.digests.words[candidates] == wanted[pending]).all(axis=1)
            places[pending[equal]] = candidates[equal]
            pending = pending[~equal]
            at[pending] += 1
        return places


def as_digests(digests: Sequence[bytes]) -> Digests:
    """``digests`` in one buffer; what does not have 32 bytes is none."""
    if isinstance(digests, Digests):
        return digests
    known = np.fromiter(map(len, digests), np.int64, len(digests)) == DIGEST_BYTES
    if not known.all():
        digests = [digest if len(digest) == DIGEST_BYTES else bytes(DIGEST_BYTES) for digest in digests]
    words = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, _WORDS)
    return Digests(words, None if known.all() else known)


def joined_digests(parts: Sequence[Sequence[bytes]]) -> Digests:
    """The digests of ``parts``, one after the other."""
    listed = [as_digests(part) for part in parts]
    if not listed:
        return Digests(np.empty((0, _WORDS), np.uint64))
    known = None if all(part.known is None for part in listed) else np.concatenate([p.all_known() for p in listed])
    return Digests(np.concatenate([part.words for part in listed]), known)


def _any_twice(ascending: npt.NDArray[np.uint64]) -> bool:
    return bool((ascending[1:] == ascending[:-1]).any())
