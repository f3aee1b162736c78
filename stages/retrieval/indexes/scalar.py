"""Numbers of fewer bits: float16, bfloat16, or one of so many levels between the least and the largest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import faiss

from stages.ranking.normalize import Vectors
from stages.retrieval.indexes.codes import SAMPLE
from stages.retrieval.indexes.lists import centres, check_lists, inverted, number_of_lists, sample
from stages.retrieval.indexes.refine import RefineConfig

_TYPES = {
    "float16": faiss.ScalarQuantizer.QT_fp16,
    "bfloat16": faiss.ScalarQuantizer.QT_bf16,
    "int8": faiss.ScalarQuantizer.QT_8bit,
    "int6": faiss.ScalarQuantizer.QT_6bit,
    "int4": faiss.ScalarQuantizer.QT_4bit,
}


@dataclass(frozen=True)
class ScalarIndexConfig:
    """Every number by itself in fewer bits.

    Args:
        stored: ``float16``, ``bfloat16``, or levels between the least and the largest value of each of the E numbers.
        lists: cells of the gallery; 0 compares every query with every row.
        probes: cells that a query visits.
        refine: compare what was found first again with stored vectors.
        seed: of the centres and of the rows that levels are learned from.
    """

    kind: Literal["scalar"] = "scalar"
    stored: Literal["float16", "bfloat16", "int8", "int6", "int4"] = "int8"
    lists: int = 0
    probes: int = 16
    refine: RefineConfig | None = None
    seed: int = 0

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        check_lists(self.lists, self.probes)

    def trained(self, vectors: Vectors) -> faiss.Index:
        """An empty index for rows like ``vectors`` (G, E)."""
        rows, dim = vectors.shape
        metric, stored = faiss.METRIC_INNER_PRODUCT, _TYPES[self.stored]
        if not self.lists:
            every = faiss.IndexScalarQuantizer(dim, stored, metric)
            every.train(sample(vectors, SAMPLE, self.seed))
            return every
        lists = number_of_lists(self.lists, rows)
        quantizer = centres(vectors, lists, self.seed)
        # Levels of the vectors themselves: differences to a centre have no smaller range where lists are many.
        index = faiss.IndexIVFScalarQuantizer(quantizer, dim, lists, stored, metric, False)
        index.train(sample(vectors, SAMPLE, self.seed))
        return inverted(index, quantizer, self.probes)
