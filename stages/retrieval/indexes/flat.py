"""Every query is compared with every gallery row: exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import faiss

from stages.ranking.normalize import Vectors


@dataclass(frozen=True)
class FlatIndexConfig:
    """Every query is compared with every gallery row: exact. 4 bytes a number."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["flat"] = "flat"

    def trained(self, vectors: Vectors) -> faiss.Index:
        """An empty index for rows like ``vectors`` (G, E)."""
        return faiss.IndexFlatIP(vectors.shape[1])
