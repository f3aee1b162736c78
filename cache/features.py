"""What reads like a store of features, whatever lies behind it: one store, or several read as one, side by side."""
# ruff: noqa: D102 (what the methods of a protocol do is said where they are)

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cache.digest_list import as_digests
from cache.fingerprint import Identity, digest_bytes
from cache.rows import RowOutcome

PROPORTIONS = 3
_INPUT_PIXELS = 224


class Failure(NamedTuple):
    """An image without a feature, and why."""

    digest: bytes
    outcome: RowOutcome


class Listed(Protocol):
    """N images with names and labels, such as :class:`stages.records.Records`."""

    @property
    def keys(self) -> list[str]: ...
    @property
    def labels(self) -> list[str | None]: ...
    @property
    def digests(self) -> Sequence[bytes]: ...


class Arrays(NamedTuple):
    """Features (n, D), labels (n,) and keys (n,); where some have no label, ``labels`` holds None for them."""

    features: npt.NDArray[np.generic]
    labels: npt.NDArray[Any]
    keys: npt.NDArray[np.str_]


class Features(Protocol):
    """Rows (N, D) keyed by the sha256 of the image's bytes, to be read: what is named is that of FeatureStore."""

    @property
    def name(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def identity(self) -> Identity: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def views(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[np.generic]: ...
    def digests(self) -> Sequence[bytes]: ...
    def usable(self, digests: Sequence[bytes]) -> npt.NDArray[np.bool_]: ...
    def checksums(self, digests: Sequence[bytes]) -> npt.NDArray[np.uint32]: ...
    def failures(self, digests: Sequence[bytes] | None = None) -> list[Failure]: ...
    def absent(self, digests: Sequence[bytes]) -> Sequence[bytes]: ...
    def read(self, digests: Sequence[bytes]) -> npt.NDArray[np.generic]: ...
    def read_views(self, digests: Sequence[bytes]) -> npt.NDArray[np.generic]: ...


def numbers_fingerprint(features: Features, digests: Sequence[bytes]) -> str:
    """The fingerprint of the numbers that ``features`` holds for ``digests``: of their checksums, in any order.

    >>> import tempfile
    >>> from tests.toys.training import classes_of, toy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     features, records = toy(folder, classes_of(2, 2))
    ...     forward, backward = records.digests, records.digests[::-1]
    ...     numbers_fingerprint(features, forward) == numbers_fingerprint(features, backward)
    True
    """
    known = as_digests(digests).readable()
    names = known.words[:, 0]  # the first 8 bytes
    _, first = np.unique(names, return_index=True)
    return digest_bytes(names[first].tobytes() + features.checksums(known)[first].tobytes()).hex()


def fuse(
    parts: Sequence[npt.NDArray[np.generic]], dtype: npt.DTypeLike, proportions: npt.NDArray[np.generic] | None = None
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
