"""Pickles of plain data, read without running what is in them.

A pickle is a program: ``pickle.load`` calls whatever it names. The few names that containers, numbers and numpy arrays
need are given here; every other one is refused.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import RecordsError

_RECONSTRUCT: Any = np.empty(0).__reduce__()[0]
_SCALAR: Any = np.float64(0).__reduce__()[0]
_ENCODE: Any = b"\xff".__reduce_ex__(2)[0]  # what bytes become in the older protocols

_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _ENCODE,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _RECONSTRUCT for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _SCALAR for core in ("core", "_core")},
    **{(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (set, frozenset)},
}


def read_plain_pickle(path: Path) -> Any:
    """The lists, dicts, texts, numbers and arrays in a pickle.

    Raises RecordsError for a pickle that names anything else, and for one that is damaged.
    """
    try:
        with path.open("rb") as file:
            return _Plain(file, encoding="latin1").load()
    except Exception as error:  # damaged pickles fail in every way there is
        raise RecordsError(f"{path} cannot be read as a pickle of plain data: {error}") from error


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, and only numbers, text, containers and numpy arrays are read. "
                "It may be made to run a program: get the file from its distributor"
            ) from None
