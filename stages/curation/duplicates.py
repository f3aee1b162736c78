"""Near-duplicates: images whose features have a cosine similarity of at least a threshold. Exact, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cache import Features
from stages.ranking import unit_length

BLOCK = 4096  # rows of a product at a time: 64 MB of similarities


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
            similarity = mine @ theirs.T  # (b, c)
            position = similarity.argmax(axis=1)
            highest = np.take_along_axis(similarity, position[:, None], axis=1)[:, 0]
            rows = slice(start, start + len(mine))
            closer = highest > best[rows]
            nearest[rows][closer] = first + position[closer]
            best[rows][closer] = highest[closer]
    return {int(row): Twin(int(nearest[row]), float(best[row])) for row in np.flatnonzero(best >= threshold)}


def twins_within(store: Features, digests: Sequence[bytes], threshold: float, *, block: int = BLOCK) -> dict[int, Twin]:
    """Those of ``digests`` (n,) to drop so that no two of the rest are near-duplicates, each with what stands for it.

    From first to last, an image is kept unless one that was kept before it is at or above ``threshold``; then the
    most similar of those stands for it. So of a chain whose ends are unlike, more than one can be kept.
    """
    dropped: dict[int, Twin] = {}
    staying = np.zeros(len(digests), np.bool_)
    for start, mine in _blocks(store, digests, block):
        similarity = np.concatenate(  # (b, start + b): to all that stand before, and to each other
            [mine @ theirs.T for _, theirs in _blocks(store, digests[: start + len(mine)], block)], axis=1
        )
        for row in range(len(mine)):
            before = np.where(staying[: start + row], similarity[row, : start + row], -np.inf)
            position = int(before.argmax()) if len(before) else -1
            if position >= 0 and before[position] >= threshold:
                dropped[start + row] = Twin(position, float(before[position]))
            else:
                staying[start + row] = True
    return dropped


def _blocks(store: Features, digests: Sequence[bytes], block: int) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """The unit-length features (b, D), ``block`` rows at a time, each with the position of its first row."""
    for first in range(0, len(digests), block):
        yield first, unit_length(store.read(digests[first : first + block]))
