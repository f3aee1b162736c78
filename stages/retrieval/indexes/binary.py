"""One bit a number: on which side of the median the turned vector lies. Compared by the bits that differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import faiss

from stages.ranking.normalize import Vectors
from stages.retrieval.indexes.codes import SAMPLE, random_turn, turned
from stages.retrieval.indexes.lists import sample
from stages.retrieval.indexes.refine import RefineConfig


@dataclass(frozen=True)
class BinaryIndexConfig:
    """Bits of the vector, turned at random (Charikar, Similarity estimation from rounding, 2002).

    The similarity it gives is the cosine of the angle that the bits estimate: many rows tie.

    Args:
        bits: of a row, 8 to the byte; 0 is one for each of its numbers.
        refine: compare what was found first again with stored vectors.
        seed: of the turn.
    """

    kind: Literal["binary"] = "binary"
    bits: int = 0
    refine: RefineConfig | None = None
    seed: int = 0

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if self.bits < 0 or self.bits % 8:
            raise ValueError(f"bits is a multiple of 8, or 0 for one a number, got {self.bits}")

    def trained(self, vectors: Vectors) -> faiss.Index:
        """An empty index for rows like ``vectors`` (G, E)."""
        dim = vectors.shape[1]
        bits = self.bits or -(-dim // 8) * 8
        inner = faiss.IndexLSH(bits, bits, False, True)
        return turned(sample(vectors, SAMPLE, self.seed), random_turn(dim, bits, self.seed), inner)
