"""Exact refinement: what an approximate index found first is compared again with the vectors themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from stages.ranking.nearest import Rows, Similarity, query_blocks
from stages.ranking.normalize import Vectors


@dataclass(frozen=True)
class RefineConfig:
    """``refine = { ... }`` of an approximate index.

    Args:
        candidates: how many times k rows are compared again.
        stored: what the vectors are kept in for that: 2 or 4 bytes a number beside the index.
    """

    candidates: int = 4
    stored: Literal["float16", "float32"] = "float16"

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(
                f"candidates is how many times k rows are compared again, at least 1, got {self.candidates}"
            )


def compare_again(
    originals: npt.NDArray[np.floating], queries: Vectors, places: Rows, k: int
) -> tuple[Rows, Similarity]:
    """The first k of each query's ``places`` (Q, W) in ``kept`` (G, E), and their similarity, both (Q, k).

    Equal ones come in order of their place. -1 is no place: it comes last, with similarity -inf.
    """
    first = np.full((len(queries), k), -1, np.int64)
    similar = np.full((len(queries), k), -np.inf, np.float32)
    for block in query_blocks(len(queries), places.shape[1] * originals.shape[1]):
        exact = np.einsum("qwe,qe->qw", originals[places[block]], queries[block], dtype=np.float64).astype(np.float32)
        exact[places[block] < 0] = -np.inf
        columns = np.lexsort((places[block], -exact))[:, :k]
        first[block, : columns.shape[1]] = np.take_along_axis(places[block], columns, axis=1)
        similar[block, : columns.shape[1]] = np.take_along_axis(exact, columns, axis=1)
    return first, similar
