"""What reads like a store of features, whatever lies behind it: one store, or several read as one."""
# ruff: noqa: D102 (what the methods of a protocol do is said where they are)

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cache.digest_list import as_digests
from cache.fingerprint import digest_bytes
from cache.identity import Identity
from cache.rows import RowOutcome


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
