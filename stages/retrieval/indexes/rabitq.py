"""RaBitQ: bits of the turned vector with what corrects their estimate (Gao and Long, RaBitQ, 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import faiss

from stages.ranking.normalize import Vectors
from stages.retrieval.indexes.codes import SAMPLE, random_turn, turned
from stages.retrieval.indexes.lists import centres, check_lists, inverted, number_of_lists, sample
from stages.retrieval.indexes.refine import RefineConfig


@dataclass(frozen=True)
class RabitqIndexConfig:
    """Bits of the turned vector and a few bytes of correction.

    Args:
        bits: of each number, 1 to 9.
        lists: cells of the gallery; 0 compares every query with every row.
        probes: cells that a query visits.
        refine: compare what was found first again with stored vectors.
        seed: of the turn and the centres.
    """

    kind: Literal["rabitq"] = "rabitq"
    bits: int = 1
    lists: int = 0
    probes: int = 16
    refine: RefineConfig | None = None
    seed: int = 0

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 9:
            raise ValueError(f"bits of each number are 1 to 9, got {self.bits}")
        check_lists(self.lists, self.probes)

    def trained(self, vectors: Vectors) -> faiss.Index:
        """An empty index for rows like ``vectors`` (G, E)."""
        rows, dim = vectors.shape
        metric, turn = faiss.METRIC_INNER_PRODUCT, random_turn(dim, dim, self.seed)
        learned = sample(vectors, SAMPLE, self.seed)
        if not self.lists:
            return turned(learned, turn, faiss.IndexRaBitQ(dim, metric, self.bits))
        lists = number_of_lists(self.lists, rows)
        quantizer = centres(turn.apply(vectors), lists, self.seed)
        inner = faiss.IndexIVFRaBitQ(quantizer, dim, lists, metric, True, self.bits)
        return turned(learned, turn, inverted(inner, quantizer, self.probes))
