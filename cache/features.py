"""What reads like a store of features, whatever lies behind it: one store, or several read as one."""

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
    """Images with names and labels, such as :class:`stages.records.Records`."""

    @property
    def keys(self) -> list[str]:
        """The name of each, (N,)."""

    @property
    def labels(self) -> list[str | None]:
        """The label of each, (N,)."""

    @property
    def digests(self) -> Sequence[bytes]:
        """The sha256 of the bytes of each, (N,)."""


class Arrays(NamedTuple):
    """Features (n, D), labels (n,) and keys (n,); where some have no label, ``labels`` holds None for them."""

    features: npt.NDArray[np.generic]
    labels: npt.NDArray[Any]
    keys: npt.NDArray[np.str_]


class Features(Protocol):
    """Rows (N, D) keyed by the sha256 of the image's bytes, to be read. See :class:`cache.FeatureStore`."""

    @property
    def name(self) -> str:
        """What the rows are called."""

    @property
    def address(self) -> str:
        """Where they are, for messages."""

    @property
    def identity(self) -> Identity:
        """Everything that changes the numbers."""

    @property
    def fingerprint(self) -> str:
        """The sha256 of the identity, 64 hexadecimal digits."""

    @property
    def dim(self) -> int:
        """D, the size of one feature."""

    @property
    def views(self) -> int:
        """V, the number of views of each image that are stored."""

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The dtype of what is read."""

    def digests(self) -> Sequence[bytes]:
        """The digest of every image with a feature, each once."""

    def usable(self, digests: Sequence[bytes]) -> npt.NDArray[np.bool_]:
        """True where ``digests`` (n,) has a feature."""

    def checksums(self, digests: Sequence[bytes]) -> npt.NDArray[np.uint32]:
        """A checksum (n,) of the feature of each of ``digests`` (n,), 0 where there is none."""

    def failures(self, digests: Sequence[bytes] | None = None) -> list[Failure]:
        """The images without a feature among ``digests`` (by default all), each once."""

    def absent(self, digests: Sequence[bytes]) -> Sequence[bytes]:
        """Those of ``digests`` that have no row of any kind, each once."""

    def read(self, digests: Sequence[bytes]) -> npt.NDArray[np.generic]:
        """The features (n, D) of ``digests`` (n,), of the first view."""

    def read_views(self, digests: Sequence[bytes]) -> npt.NDArray[np.generic]:
        """The features (n, V, D) of all views of ``digests`` (n,)."""


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
