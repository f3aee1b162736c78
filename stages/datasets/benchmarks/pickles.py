"""Pickles of plain data, read without running what is in them.

A pickle is a program: ``pickle.load`` calls whatever it names. The few names that containers, numbers and numpy arrays
need are given here; every other one is refused.
"""

from __future__ import annotations

import codecs
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import RecordsError

_CORES = ("numpy.core", "numpy._core")  # its name before numpy 2, and since
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,  # what bytes become in the older protocols
    **{(f"{core}.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0] for core in _CORES},
    **{(f"{core}.multiarray", "scalar"): np.float64(0).__reduce__()[0] for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): np.empty(1).__reduce_ex__(5)[0] for core in _CORES},
    **{(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (bytes, set, frozenset)},
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
