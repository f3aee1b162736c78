"""Near-duplicates: images whose features have a cosine similarity of at least a threshold. Exact, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cache import Features
from stages.ranking import search, unit_length
from stages.ranking.nearest import compare_all

BLOCK = 2048  # rows of both sides at a time: 16 MB of similarities


class Twin(NamedTuple):
    """What an image is a near-duplicate of: its position, and the cosine similarity of the two."""

    position: int
    similarity: float


def twins_among(
    store: Features, digests: Sequence[bytes], others: Sequence[bytes], threshold: float, *, block: int = BLOCK
) -> dict[int, Twin]:
    """For each of ``digests`` (n,) that has one, the most similar of ``others`` (m,) at or above ``threshold``.

    Keys are positions in ``digests``, :attr:`Twin.position` is one in ``others``; of equals the first.
    """
    best = np.full(len(digests), -np.inf, np.float32)
    nearest = np.zeros(len(digests), np.int64)
    for first, theirs in _blocks(store, others, block):
        for start, mine in _blocks(store, digests, block):
            rows, highest = search(theirs, mine, 1)
            place = np.arange(start, start + len(mine))[highest[:, 0] > best[start : start + len(mine)]]
            nearest[place], best[place] = first + rows[place - start, 0], highest[place - start, 0]
    return {int(row): Twin(int(nearest[row]), float(best[row])) for row in np.flatnonzero(best >= threshold)}


def twins_within(store: Features, digests: Sequence[bytes], threshold: float, *, block: int = BLOCK) -> dict[int, Twin]:
    """Those of ``digests`` (n,) to drop so that no two of the rest are near-duplicates, each with what stands for it.

    From first to last, an image is kept unless one that was kept before it is at or above ``threshold``; then the
    most similar of those stands for it. So of a chain whose ends are unlike, more than one can be kept.
    """
    dropped: dict[int, Twin] = {}
    staying: list[int] = []
    for start, mine in _blocks(store, digests, block):
        earlier = twins_among(
            store, digests[start : start + len(mine)], [digests[row] for row in staying], threshold, block=block
        )
        similarity = compare_all(mine, mine, np.full(len(mine), -1))
        inside: list[int] = []  # of this block, those that stay
        for row in range(len(mine)):
            twin = earlier.get(row)
            best = None if twin is None else Twin(staying[twin.position], twin.similarity)
            if inside:
                nearest = inside[int(similarity[row, inside].argmax())]
                value = float(similarity[row, nearest])
                if value >= threshold and (best is None or value > best.similarity):
                    best = Twin(start + nearest, value)
            if best is None:
                inside.append(row)
            else:
                dropped[start + row] = best
        staying += [start + row for row in inside]
    return dropped


def _blocks(store: Features, digests: Sequence[bytes], block: int) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """The unit-length features (b, D), ``block`` rows at a time, each with the position of its first row."""
    for first in range(0, len(digests), block):
        yield first, unit_length(store.read(digests[first : first + block]))
