"""What an index learns from the gallery: centres of inverted lists, product codes, and rotations in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from cache.errors import SettingsError
from stages.ranking.nearest import Rows
from stages.ranking.normalize import Vectors
from stages.retrieval.indexes import lazy_faiss as faiss

PIECES = 256  # of a product code
SAMPLE = 256 * PIECES  # rows that codes are learned from
_ROWS_A_LIST = 39  # fewer rows than this for each centre, and centres are single rows
_SAMPLE_A_LIST = 48  # rows that a centre is learned from
_ROUNDS = 8
_CODE_ROUNDS = 25
_ROWS_AT_ONCE = 2**15  # faiss encodes so many together


class VectorRows(Protocol):
    """The vectors (G, E) of a gallery, of unit length, read as they are needed. An array is one that is in memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(G, E)."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Rows, /) -> Vectors: ...


def in_blocks(low: int, high: int) -> Iterator[Rows]:
    """The rows from ``low`` up to ``high``, as many together as are read and encoded at a time."""
    return (np.arange(at, min(at + _ROWS_AT_ONCE, high)) for at in range(low, high, _ROWS_AT_ONCE))


def sample(vectors: VectorRows, rows: int, seed: int) -> Vectors:
    """At most so many ``rows`` of ``vectors`` (G, E), drawn from the ``seed``, in their order."""
    if len(vectors) <= rows:
        return vectors if isinstance(vectors, np.ndarray) else vectors[np.arange(len(vectors))]
    return vectors[np.sort(np.random.default_rng(seed).choice(len(vectors), rows, replace=False))]


def number_of_lists(lists: int, rows: int) -> int:
    """``lists``, or where that is 0 what fits a gallery of ``rows``. ValueError for more lists than rows."""
    if lists > rows:
        raise SettingsError(f"an index of {lists:,} lists needs as many rows, got {rows:,}. Ask for fewer lists.")
    return lists or max(1, min(round(4 * rows**0.5), rows // _ROWS_A_LIST))


def centres(vectors: VectorRows, lists: int, seed: int, turn: faiss.LinearTransform | None = None) -> faiss.IndexFlatIP:
    """Spherical k-means of a sample of ``vectors`` (G, E), as ``turn`` makes them; 0 ``lists`` are what fits."""
    lists = number_of_lists(lists, len(vectors))
    how = faiss.ClusteringParameters()
    how.niter, how.seed, how.spherical = _ROUNDS, seed, True
    how.min_points_per_centroid, how.max_points_per_centroid = 1, _SAMPLE_A_LIST
    learned, quantizer = sample(vectors, lists * _SAMPLE_A_LIST, seed), faiss.IndexFlatIP(vectors.shape[1])
    faiss.Clustering(vectors.shape[1], lists, how).train(learned if turn is None else turn.apply(learned), quantizer)
    return quantizer


def check_codes(size: int, rows: int, dim: int, kind: str) -> None:
    """ValueError unless vectors of ``dim`` numbers can be ``size`` bytes, learned from so many ``rows``."""
    if dim % size:
        fit = ", ".join(str(n) for n in range(1, dim + 1) if dim % n == 0)
        raise SettingsError(f"bytes must divide the {dim} numbers of a vector ({fit}), got {size}")
    if rows < PIECES:
        raise SettingsError(
            f"{kind} learns {PIECES} pieces and needs as many rows, got {rows}. A flat index fits here."
        )


def seeded(quantizer: faiss.ProductQuantizer, seed: int) -> faiss.ProductQuantizer:
    """Make what ``quantizer`` will learn follow from ``seed``."""
    quantizer.cp.seed, quantizer.cp.niter = seed, _CODE_ROUNDS
    quantizer.cp.min_points_per_centroid = 1
    return quantizer


def random_turn(dim: int, bits: int, seed: int) -> faiss.RandomRotationMatrix:
    """A random rotation of ``dim`` numbers into ``bits``."""
    turn = faiss.RandomRotationMatrix(dim, bits)
    turn.init(seed)
    return turn


def turned(vectors: Vectors, turn: faiss.LinearTransform, inner: faiss.Index) -> faiss.IndexPreTransform:
    """``inner``, trained on ``vectors`` (n, E) as the trained ``turn`` makes them, behind it."""
    inner.train(turn.apply(vectors))
    return faiss.IndexPreTransform(turn, inner)
