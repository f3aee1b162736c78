"""A graph of neighbours (Malkov and Yashunin, Hierarchical navigable small worlds, 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import faiss

from stages.ranking.normalize import Vectors


@dataclass(frozen=True)
class HnswIndexConfig:
    """A graph over whole vectors: 4 bytes a number and 8 a link, rounded up.

    It is built on one thread, because the graph that several build depends on which comes first; so it takes long.

    Args:
        links: neighbours of a row in each layer; twice as many in the lowest.
        effort: candidates kept while a row is linked.
        search_effort: candidates kept while a query is answered; at least k of them are.
    """

    kind: Literal["hnsw"] = "hnsw"
    links: int = 32
    effort: int = 40
    search_effort: int = 64

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if self.links < 2:
            raise ValueError(f"links is how many neighbours a row has, at least 2, got {self.links}")
        if self.effort < 1 or self.search_effort < 1:
            raise ValueError(f"effort and search_effort are at least 1, got {self.effort} and {self.search_effort}")

    def trained(self, vectors: Vectors) -> faiss.Index:
        """An empty index for rows like ``vectors`` (G, E)."""
        index = faiss.IndexHNSWFlat(vectors.shape[1], self.links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = self.effort, self.search_effort
        return index
