"""Vectors of length 1 on a grid: what makes a similarity exact, whatever the order of summation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import numpy.typing as npt

from cache.errors import SettingsError

Vectors = npt.NDArray[np.float32]

_STEPS = np.float32(2.0**26)  # in 1: a power of two, so that nothing but np.rint rounds
_ROUNDED = 2.0**-22  # how far from 1 a length can be once every number is rounded
_ROWS_AT_ONCE = 8192


def unit_length(vectors: npt.NDArray[np.generic]) -> Vectors:
    """``vectors`` (N, E), any float type, as float32 rows of length 1; a row of zeros stays zero.

    Each number is rounded to a whole multiple of 2**-26, less than float32 keeps of most unit vectors. Products of
    two are then whole multiples of 2**-52 and a similarity, summed in float64, is *exact*: the same for every block
    size and number of threads, whatever the order of summation, and equal for equal rows. What is so already is
    returned as it is, not copied.

    >>> unit_length(np.array([[3.0, 4.0], [0.0, 0.0]])).round(3).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    if vectors.dtype == np.float32 and _is_unit(cast("Vectors", vectors)):
        return cast("Vectors", vectors)
    unit = np.array(vectors, dtype=np.float32)
    for rows in _blocks(unit):
        length = _lengths(rows)
        rows /= np.where(length > 0, length, 1)
        _round(rows)
    return unit


def _lengths(rows: Vectors) -> Vectors:
    lengths: Vectors = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1, keepdims=True)).astype(np.float32)
    return lengths


def _is_unit(vectors: Vectors) -> bool:
    """Whether ``vectors`` are what :func:`unit_length` makes: on the grid, and of a length that rounding leaves."""
    if vectors.ndim != 2 or not vectors.flags.c_contiguous:
        return False
    for rows in _blocks(vectors):
        lengths = _lengths(rows)
        if not (((np.abs(lengths - 1) <= _ROUNDED) | (lengths == 0)).all() and _is_round(rows)):
            return False
    return True


def on_grid(vectors: Vectors) -> Vectors:
    """Each number rounded to a multiple of 2**-26, exact up to 1; what is so already is not copied."""
    if all(map(_is_round, _blocks(vectors))):
        return vectors
    rounded = vectors.copy()
    for rows in _blocks(rounded):
        _round(rows)
    return rounded


def _blocks(vectors: Vectors) -> Iterator[Vectors]:
    return (vectors[low : low + _ROWS_AT_ONCE] for low in range(0, len(vectors), _ROWS_AT_ONCE))


def _is_round(rows: Vectors) -> bool:
    steps = rows * _STEPS
    return np.array_equal(np.rint(steps), steps)


def _round(rows: Vectors) -> None:
    """Round ``rows`` in place."""
    rows *= _STEPS
    np.rint(rows, out=rows)
    rows /= _STEPS


def check_finite(vectors: Vectors, what: str) -> Vectors:
    """The squared length (N,) of each of ``vectors`` (N, E). Raises ValueError for NaN and infinity."""
    squares: Vectors = np.einsum("ne,ne->n", vectors, vectors)  # both stay visible in the sum
    if (bad := np.flatnonzero(~np.isfinite(squares))).size:
        raise SettingsError(
            f"{what} must be finite numbers; {len(bad)} of {len(vectors)} rows hold NaN or infinity, the first is row "
            f"{bad[0]}. A failed image has such a row: leave it out."
        )
    return squares


def check_unit(vectors: npt.NDArray[np.generic], what: str) -> Vectors:
    """``vectors`` (N, E) as contiguous float32 on the grid. Raises ValueError naming what is wrong with them."""
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise SettingsError(f"{what} must have shape (rows, E) with E of at least 1, got {vectors.shape}")
    narrow = np.ascontiguousarray(vectors, dtype=np.float32)
    squares = check_finite(narrow, what)
    if off := np.flatnonzero((np.abs(squares - 1) > 1e-3) & (squares != 0)).tolist():
        raise SettingsError(
            f"{what} must have length 1 (or be zero); row {off[0]} has length {squares[off[0]] ** 0.5:.4g}. "
            f"Pass them through unit_length() first."
        )
    return on_grid(narrow)
