"""Inverted lists of product codes (Jégou et al., Product quantization for nearest neighbor search, 2011)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import faiss

from stages.ranking.normalize import Vectors
from stages.retrieval.indexes.codes import SAMPLE, check_codes, seeded
from stages.retrieval.indexes.lists import centres, check_lists, inverted, number_of_lists, sample
from stages.retrieval.indexes.refine import RefineConfig


@dataclass(frozen=True)
class IvfPqIndexConfig:
    """Inverted lists of product codes: ``bytes`` a vector, and 8 for its id.

    Args:
        bytes: of a code; they divide the numbers of a vector.
        lists: cells of the gallery; 0 is 4 times the square root of its rows.
        probes: cells that a query visits.
        refine: compare what was found first again with stored vectors.
        seed: of centres and codes.
    """

    kind: Literal["ivf_pq"] = "ivf_pq"
    bytes: int = 16
    lists: int = 0
    probes: int = 16
    refine: RefineConfig | None = None
    seed: int = 0

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if self.bytes < 1:
            raise ValueError(f"bytes is the size of a code, at least 1, got {self.bytes}")
        check_lists(self.lists, self.probes)

    def trained(self, vectors: Vectors) -> faiss.Index:
        """An empty index for rows like ``vectors`` (G, E)."""
        rows, dim = vectors.shape
        check_codes(self.bytes, rows, dim, self.kind)
        lists = number_of_lists(self.lists, rows)
        quantizer = centres(vectors, lists, self.seed)
        index = faiss.IndexIVFPQ(quantizer, dim, lists, self.bytes, 8, faiss.METRIC_INNER_PRODUCT)
        seeded(index.pq, self.seed)
        index.train(sample(vectors, SAMPLE, self.seed))  # the codes: the centres are trained already
        return inverted(index, quantizer, self.probes)
