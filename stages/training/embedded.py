"""A head's embeddings computed when they are read, and kept nowhere: for what is looked at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache import Failure, Features, Identity
from stages.training.head import Head


class Embedded:
    """The embeddings (rows, E), float32 and of unit length, of ``features``; reads as a store of them would."""

    def __init__(self, head: Head, features: Features) -> None:
        self._head, self._features = head, features
        self.views = 1

    @property
    def name(self) -> str:
        """What the rows are called."""
        return f"{self._features.name}-{self._head.config.kind}{self.dim}"

    @property
    def path(self) -> Path:
        """Where the features are, for messages."""
        return self._features.path

    @property
    def identity(self) -> Identity:
        """That of the store that :func:`stages.training.embed` would fill."""
        return Identity({"head": self._head.fingerprint, "features": self._features.fingerprint})

    @property
    def fingerprint(self) -> str:
        """The sha256 of the identity, 64 hexadecimal digits."""
        return self.identity.fingerprint

    @property
    def dim(self) -> int:
        """E."""
        return self._head.dim

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """float32."""
        return np.dtype(np.float32)

    def digests(self) -> list[bytes]:
        """The digest of every image with a feature, each once."""
        return self._features.digests()

    def usable(self, digests: Sequence[bytes]) -> npt.NDArray[np.bool_]:
        """True where ``digests`` (n,) has a feature."""
        return self._features.usable(digests)

    def failures(self, digests: Sequence[bytes] | None = None) -> list[Failure]:
        """The images without a feature among ``digests`` (by default all), each once."""
        return self._features.failures(digests)

    def absent(self, digests: Sequence[bytes]) -> list[bytes]:
        """Those of ``digests`` that have no row of any kind, each once."""
        return self._features.absent(digests)

    def read(self, digests: Sequence[bytes]) -> npt.NDArray[np.generic]:
        """The embeddings (n, E) of ``digests`` (n,)."""
        return self._head(self._features.read(digests))

    def read_views(self, digests: Sequence[bytes]) -> npt.NDArray[np.generic]:
        """:meth:`read`, as one view (n, 1, E)."""
        return self.read(digests)[:, None]
