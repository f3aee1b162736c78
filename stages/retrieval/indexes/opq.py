"""Product codes of turned vectors (Ge et al., Optimized product quantization, 2013)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import faiss

from stages.ranking.normalize import Vectors
from stages.retrieval.indexes.codes import SAMPLE, check_codes, seeded, turned
from stages.retrieval.indexes.lists import sample
from stages.retrieval.indexes.refine import RefineConfig

_TURNS, _ROUNDS_A_TURN, _FIRST_ROUNDS = 10, 3, 15  # a fifth of the work that faiss does by default


@dataclass(frozen=True)
class OpqIndexConfig:
    """Vectors are turned so that product codes lose least; every query is compared with every code.

    Args:
        bytes: of a code; they divide the numbers of a vector.
        refine: compare what was found first again with stored vectors.
        seed: of the codes and of the rows they are learned from.
    """

    kind: Literal["opq"] = "opq"
    bytes: int = 16
    refine: RefineConfig | None = None
    seed: int = 0

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if self.bytes < 1:
            raise ValueError(f"bytes is the size of a code, at least 1, got {self.bytes}")

    def trained(self, vectors: Vectors) -> faiss.Index:
        """An empty index for rows like ``vectors`` (G, E)."""
        rows, dim = vectors.shape
        check_codes(self.bytes, rows, dim, self.kind)
        learned = sample(vectors, SAMPLE, self.seed)
        turn = faiss.OPQMatrix(dim, self.bytes)
        turn.niter, turn.niter_pq, turn.niter_pq_0 = _TURNS, _ROUNDS_A_TURN, _FIRST_ROUNDS
        codes = faiss.ProductQuantizer(dim, self.bytes, 8)
        seeded(codes, self.seed)
        turn.pq = codes
        turn.train(learned)
        inner = faiss.IndexPQ(dim, self.bytes, 8, faiss.METRIC_INNER_PRODUCT)
        seeded(inner.pq, self.seed)
        return turned(learned, turn, inner)
