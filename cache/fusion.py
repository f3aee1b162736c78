"""Rows of several stores side by side: each of unit length, then perhaps the proportions of the image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt

PROPORTIONS = 3
_INPUT_PIXELS = 224


def fuse(
    parts: Sequence[npt.NDArray[np.generic]], dtype: npt.DTypeLike, proportions: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.generic]:
    """Fused rows (n, D): ``parts`` (n, D_i), each brought to unit length, then ``proportions`` (n, 3).

    Lengths are summed in float64 and rounded once, so that the order of summation does not show.

    >>> fuse([np.array([[3.0, 4.0]]), np.array([[0.0, 2.0]])], np.float32)
    array([[0.6, 0.8, 0. , 1. ]], dtype=float32)
    """
    extra = 0 if proportions is None else proportions.shape[1]
    fused = np.empty((len(parts[0]), sum(part.shape[1] for part in parts) + extra), dtype)
    low = 0
    for part in parts:
        rows = part.astype(np.float32)
        length = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64)).astype(np.float32)[:, None]
        fused[:, low : low + rows.shape[1]] = rows / np.where(length > 0, length, 1)
        low += rows.shape[1]
    if proportions is not None:
        fused[:, low:] = proportions
    return fused


def fused_name(names: Sequence[str], *, sizes: bool = False) -> str:
    """What the features of several stores together are called: what a name has in common with the first is left out.

    >>> fused_name(["net", "net-block3-mean", "other"], sizes=True)
    'net+block3-mean+other+sizes'
    """
    first, *others = names
    return "+".join([first, *(name.removeprefix(f"{first}-") for name in others), *(["sizes"] if sizes else [])])


def fused_checksums(parts: Sequence[npt.NDArray[np.uint32]]) -> npt.NDArray[np.uint32]:
    """One checksum (n,) of rows whose parts have the checksums ``parts``, each (n,): it changes with each of them."""
    odd = np.uint32(2654435761)  # a bijection modulo 2**32 at each step
    return reduce(lambda mixed, part: mixed * odd + part, parts)


def image_proportions(height: npt.NDArray[np.generic], width: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """H / W, H / 224 and W / 224 of images of ``height`` (n,) and ``width`` (n,) pixels, (n, 3)."""
    tall, wide = height.astype(np.float32), width.astype(np.float32)
    return np.stack([tall / wide, tall / _INPUT_PIXELS, wide / _INPUT_PIXELS], 1)
