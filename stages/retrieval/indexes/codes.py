"""Product quantisation: a vector as so many bytes, each the nearest of 256 learned pieces of it."""

from __future__ import annotations

import faiss

from stages.ranking.normalize import Vectors

PIECES = 256
SAMPLE = 256 * PIECES  # rows that codes are learned from
_ROUNDS = 25


def check_codes(size: int, rows: int, dim: int, kind: str) -> None:
    """ValueError unless vectors of ``dim`` numbers can be ``size`` bytes, learned from so many ``rows``."""
    if dim % size:
        fit = ", ".join(str(n) for n in range(1, dim + 1) if dim % n == 0)
        raise ValueError(f"bytes must divide the {dim} numbers of a vector ({fit}), got {size}")
    if rows < PIECES:
        raise ValueError(f"{kind} learns {PIECES} pieces and needs as many rows, got {rows}. A flat index fits here.")


def seeded(quantizer: faiss.ProductQuantizer, seed: int) -> None:
    """Make what ``quantizer`` will learn follow from ``seed``."""
    quantizer.cp.seed, quantizer.cp.niter = seed, _ROUNDS
    quantizer.cp.min_points_per_centroid = 1


def turned(vectors: Vectors, turn: faiss.LinearTransform, inner: faiss.Index) -> faiss.IndexPreTransform:
    """``inner``, trained on ``vectors`` (n, E) as the trained ``turn`` makes them, behind it."""
    inner.train(turn.apply(vectors))
    return faiss.IndexPreTransform(turn, inner)


def random_turn(dim: int, bits: int, seed: int) -> faiss.RandomRotationMatrix:
    """A random rotation of ``dim`` numbers into ``bits``."""
    turn = faiss.RandomRotationMatrix(dim, bits)
    turn.init(seed)
    return turn
