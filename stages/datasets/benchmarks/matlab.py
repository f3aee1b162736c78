"""MATLAB files of annotations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.errors import RecordsError


def read_matlab(path: Path, *names: str) -> list[npt.NDArray[Any]]:
    """The variables ``names`` of a .mat file, each at least one-dimensional; cells are objects, structs have fields."""
    from scipy.io import loadmat

    try:
        variables = loadmat(path, squeeze_me=True, variable_names=names)
    except Exception as error:  # any kind: ValueError, TypeError, NotImplementedError
        raise RecordsError(f"{path} cannot be read as a MATLAB file: {error}") from error
    if absent := [name for name in names if name not in variables]:
        raise RecordsError(f"{path} has no variable {absent[0]!r}, which it must")
    return [np.atleast_1d(variables[name]) for name in names]


def read_fields(path: Path, structs: npt.NDArray[Any], *names: str) -> list[list[Any]]:
    """The fields ``names`` of an array of structs (N,), each as a list of N values."""
    has = structs.dtype.names or ()
    if absent := [name for name in names if name not in has]:
        raise RecordsError(f"{path}: the annotations have no field {absent[0]!r}; they have {', '.join(has) or 'none'}")
    return [[value.item() if isinstance(value, np.ndarray) else value for value in structs[name]] for name in names]
