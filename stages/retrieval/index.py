"""The index of a gallery: exact inner product over unit vectors, and its two files on disk.

::

    <folder>/gallery.faiss   the faiss index, readable by faiss alone
    <folder>/gallery.json    what it was made from; written last, so an index without it does not exist
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias, cast

import faiss
import numpy as np
import numpy.typing as npt

from cache import digest_file, fingerprint
from cache.atomic import replace_bytes, replace_text
from cache.errors import DamagedStoreError, StaleStoreError
from cache.fingerprint import JSON

_STEP = np.float32(2.0**-26)
_ROWS_AT_ONCE = 8192
_INDEX, _SIDECAR = "gallery.faiss", "gallery.json"


@dataclass(frozen=True)
class FlatIndexConfig:
    """Every query is compared with every gallery row: exact."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["flat"] = "flat"


IndexConfig: TypeAlias = FlatIndexConfig
"""Any kind of index. A second kind makes this a union told apart by ``kind``."""


def unit_length(vectors: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """``vectors`` (N, E), any float type, as float32 rows of length 1; a row of zeros stays zero.

    Each number is rounded to a whole multiple of 2**-26, less than float32 keeps of most unit vectors. Products of
    two are then whole multiples of 2**-52 and a similarity, summed in float64, is *exact*: the same for every block
    size and number of threads, whatever the order of summation, and equal for equal rows.
    """
    unit = np.array(vectors, dtype=np.float32)
    for low in range(0, len(unit), _ROWS_AT_ONCE):
        rows = unit[low : low + _ROWS_AT_ONCE]
        length = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1, keepdims=True)).astype(np.float32)
        rows /= np.where(length > 0, length, 1)
    return on_grid(unit)


def on_grid(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Round each number to a whole multiple of 2**-26; exact in float32 for numbers up to 1."""
    return cast("npt.NDArray[np.float32]", np.rint(vectors / _STEP) * _STEP)


def check_unit(vectors: npt.NDArray[np.generic], what: str) -> npt.NDArray[np.float32]:
    """``vectors`` (N, E) as contiguous float32 on the grid. Raises ValueError naming what is wrong with them."""
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise ValueError(f"{what} must have shape (rows, E) with E of at least 1, got {vectors.shape}")
    narrow = np.ascontiguousarray(vectors, dtype=np.float32)
    squares = np.einsum("ne,ne->n", narrow, narrow)  # NaN and infinity stay visible in the sum
    if bad := np.flatnonzero(~np.isfinite(squares)).tolist():
        raise ValueError(
            f"{what} must be finite numbers; {len(bad)} of {len(narrow)} rows hold NaN or infinity, the first is row "
            f"{bad[0]}. A failed image has such a row: leave it out."
        )
    if off := np.flatnonzero((np.abs(squares - 1) > 1e-3) & (squares != 0)).tolist():
        raise ValueError(
            f"{what} must have length 1 (or be zero); row {off[0]} has length {squares[off[0]] ** 0.5:.4g}. "
            f"Pass them through unit_length() first."
        )
    return on_grid(narrow)


def build_index(
    vectors: npt.NDArray[np.float32],
    config: IndexConfig = FlatIndexConfig(),  # noqa: ARG001  # there is one kind so far
) -> faiss.Index:
    """The index of the gallery ``vectors`` (G, E), float32 of unit length, in their order.

    Raises ValueError when a row holds NaN or is not of unit length, or when there is no row.
    """
    if len(vectors) == 0:
        raise ValueError(f"an index needs at least one gallery row, got shape {vectors.shape}")
    index = faiss.IndexFlatIP(vectors.shape[-1])
    index.add(check_unit(vectors, "gallery vectors"))
    return index


def stored_vectors(index: faiss.Index) -> npt.NDArray[np.float32]:
    """The gallery vectors (G, E) in a flat ``index``: a view, not a copy."""
    flat = cast("faiss.IndexFlat", faiss.downcast_index(index))
    size = index.ntotal * index.d
    return cast("npt.NDArray[np.float32]", faiss.rev_swig_ptr(flat.get_xb(), size)).reshape(index.ntotal, index.d)


@dataclass(frozen=True)
class GalleryIndex:
    """An index that knows what it holds: one row per key, made from the embeddings of one fingerprint."""

    index: faiss.Index
    keys: tuple[str, ...]
    embeddings: str
    """The fingerprint of the rows: of the store they were read from, and of the images they belong to."""

    def __post_init__(self) -> None:
        if len(self.keys) != self.index.ntotal:
            raise ValueError(
                f"an index takes one key per row: it has {self.index.ntotal} rows, got {len(self.keys)} keys"
            )

    def save(self, folder: Path | str) -> None:
        """Write the index into ``folder``, replacing one that is there; ``gallery.json`` comes last."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _SIDECAR).unlink(missing_ok=True)
        replace_bytes(folder / _INDEX, faiss.serialize_index(self.index).tobytes())
        sidecar = {**self._facts(), "sha256": digest_file(folder / _INDEX).hex()}
        replace_text(folder / _SIDECAR, json.dumps(sidecar, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path | str, *, embeddings: str, keys: Sequence[str]) -> GalleryIndex:
        """Read the index in ``folder``, which must be that of the gallery ``keys`` in the store ``embeddings``.

        Raises :class:`StaleStoreError` when it was made from other embeddings or another gallery (each difference is
        named) and :class:`DamagedStoreError` when it is not whole.
        """
        folder = Path(folder)
        stored = _read_sidecar(folder / _SIDECAR)
        wanted: dict[str, JSON] = {"embeddings": embeddings, "keys": fingerprint(list(keys)), "rows": len(keys)}
        differences = [f"{k}: stored {stored.get(k)!r}, wanted {v!r}" for k, v in wanted.items() if stored.get(k) != v]
        if differences:
            raise StaleStoreError(folder, differences, "Build the index again, or load it with what it was made from.")
        path = folder / _INDEX
        if not path.exists() or digest_file(path).hex() != stored.get("sha256"):
            raise DamagedStoreError(f"{path} is not the file that {_SIDECAR} describes. Build the index again.")
        return cls(faiss.read_index(str(path)), tuple(keys), embeddings)

    def _facts(self) -> dict[str, JSON]:
        keys = fingerprint(list(self.keys))
        return {"embeddings": self.embeddings, "keys": keys, "rows": len(self.keys), "dim": self.index.d}


def _read_sidecar(path: Path) -> dict[str, JSON]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DamagedStoreError(f"{path.parent} holds no finished index: there is no {_SIDECAR}. Build it.") from error
    except ValueError as error:
        raise DamagedStoreError(f"{path} is not JSON ({error}). Build the index again.") from error
    if not isinstance(stored, dict):
        raise DamagedStoreError(f"{path} must hold an object, got {type(stored).__name__}. Build the index again.")
    return stored
