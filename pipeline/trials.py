"""Trials that are run once: what each measures is a file, ``<fingerprint>.npz``, from which the same work goes on."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias, TypeVar
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from cache import Storage
from cache.errors import DamagedStoreError

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""What a trial measures: numbers and text, by name."""

T = TypeVar("T")


def run_once(
    trials: Mapping[str, T], storage: Storage, run: Callable[[Mapping[str, T]], Iterator[tuple[str, Arrays]]]
) -> Iterator[tuple[str, Arrays]]:
    """Yield the fingerprint and the arrays of each of ``trials``: those with a file in ``storage``, then those ``run``.

    The fingerprint stands for everything that arrays follow from. DamagedStoreError for a file that cannot be read.
    """
    unfinished = {}
    for name, trial in trials.items():
        try:
            arrays = _read(storage, _key(name))
        except FileNotFoundError:
            unfinished[name] = trial
        else:
            yield name, arrays
    for name, arrays in run(unfinished) if unfinished else ():
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        storage.put(_key(name), content.getbuffer())
        yield name, arrays


def _key(name: str) -> str:
    return f"{name[:32]}.npz"


def _read(storage: Storage, key: str) -> Arrays:
    try:
        with np.load(io.BytesIO(storage.read(key)), allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise DamagedStoreError(
            f"{storage.address(key)} cannot be read: {error}. Delete it: its trial is run again."
        ) from error
