"""Everything Permafrost raises on purpose.

Every message says what must hold, what came, and what to do.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class PermafrostError(Exception):
    """The root of all errors here. It can be pickled, with all that was set on it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _raised, (type(self), self.args), self.__dict__


def _raised(kind: type[PermafrostError], args: tuple[Any, ...]) -> PermafrostError:
    """The error of ``kind`` with ``args``, the message: the arguments that made it are not needed again."""
    error = kind.__new__(kind)
    error.args = args
    return error


class ConfigError(PermafrostError):
    """A run file that cannot be understood, or wrong usage: exit status 2."""


class SettingsError(PermafrostError, ValueError):
    """A setting or an argument that cannot be what it is; in a run file it becomes a ConfigError."""


class RecordsError(PermafrostError):
    """A dataset that cannot be used as it is."""


class AbsentPathError(ConfigError, RecordsError):
    """Nothing is at the path that a run file or a command names for images."""


class MissingExtraError(PermafrostError):
    """An optional library that is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed. Install it with: pip install 'permafrost-retrieval[{extra}]'")


class ClusterError(PermafrostError):
    """Machines that do not answer, or whose workers differ from the driver."""


class CrashedError(PermafrostError):
    """Images at which every process that computes them crashes; all others are done."""


class WeightsError(PermafrostError):
    """Weights that cannot be had, or do not fit the network."""


class AbsentWeightsError(ConfigError, WeightsError):
    """No file is at the path that a run file names for weights."""


class NothingToScoreError(PermafrostError):
    """No query, or no gallery, is left."""


class DivergedError(PermafrostError):
    """A training whose loss became NaN or infinite."""


class StoreError(PermafrostError):
    """Anything wrong with a store of features or embeddings."""


class StaleStoreError(StoreError):
    """A store of another identity: names each differing key with both values."""

    def __init__(self, path: Path | str, differences: Sequence[str], ways_out: str) -> None:
        self.path = path
        self.differences = list(differences)
        listed = "\n".join(f"  {line}" for line in differences)
        super().__init__(f"{path} was made from something else:\n{listed}\n{ways_out}")


class StoreBusyError(StoreError):
    """Another process is writing to the store."""


class MissingRowsError(StoreError):
    """Rows asked for that are not there."""


class DamagedStoreError(StoreError):
    """Bytes on disk that are not what was committed."""


class UnreachableError(StoreError):
    """Object storage that does not answer, refuses the credentials, has no such bucket, or cannot commit safely."""


class UnwritableError(StoreError):
    """A disk that is full, or a path that cannot be written. What was committed before stays as it was."""

    def __init__(self, path: Path | str, error: OSError) -> None:
        self.path = path
        self.read_only = error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
        """It is to be read alone; otherwise, say, full."""
        super().__init__(
            f"{path} cannot be written: {error.strerror or error}. Nothing is half done: what was committed before is "
            "kept, and the same command goes on from there. Make room first (or make the folder writable)."
        )


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """The part of a message that names the nearest of ``names``, or nothing.

    >>> did_you_mean("lable", ["label", "domain"])
    " Did you mean 'label'?"
    """
    near = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
