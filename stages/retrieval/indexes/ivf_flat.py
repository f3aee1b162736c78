"""Inverted lists of whole vectors: exact within the lists that a query visits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import faiss

from stages.ranking.normalize import Vectors
from stages.retrieval.indexes.lists import centres, check_lists, inverted, number_of_lists


@dataclass(frozen=True)
class IvfFlatIndexConfig:
    """Inverted lists of whole vectors. 4 bytes a number.

    Args:
        lists: cells of the gallery; 0 is 4 times the square root of its rows.
        probes: cells that a query visits.
        seed: of the centres.
    """

    kind: Literal["ivf_flat"] = "ivf_flat"
    lists: int = 0
    probes: int = 16
    seed: int = 0

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        check_lists(self.lists, self.probes)

    def trained(self, vectors: Vectors) -> faiss.Index:
        """An empty index for rows like ``vectors`` (G, E)."""
        lists = number_of_lists(self.lists, len(vectors))
        quantizer = centres(vectors, lists, self.seed)
        index = faiss.IndexIVFFlat(quantizer, vectors.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
        index.is_trained = True  # centres are all there is to learn
        return inverted(index, quantizer, self.probes)
