"""Small batches for the tests of losses on pairs, as tensors and as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.training.pairs.block import Block
from stages.training.pairs.loss import CrossBatchMemory
from tests.oracles.pairs import Compared, Triple, unit


@dataclass(frozen=True)
class Batch:
    """Embeddings (B, E) float64 of any length with labels and rows, and a memory of earlier ones."""

    embeddings: Tensor
    labels: Tensor
    rows: Tensor
    memory: Tensor
    memory_labels: Tensor
    memory_rows: Tensor

    @property
    def classes(self) -> int:
        return int(torch.cat([self.labels, self.memory_labels]).max()) + 1

    def plain(self) -> Compared:
        """All of it as numbers."""
        return Compared(
            [unit(vector) for vector in torch.cat([self.embeddings, self.memory]).tolist()],
            torch.cat([self.labels, self.memory_labels]).tolist(),
            torch.cat([self.rows, self.memory_rows]).tolist(),
            len(self.labels),
        )

    def block(self, *, seed: int = 0) -> Block:
        """The whole batch as one block."""
        unit_vectors = torch.nn.functional.normalize(torch.cat([self.embeddings, self.memory]))
        labels = torch.cat([self.labels, self.memory_labels])
        rows = torch.cat([self.rows, self.memory_rows])
        cosines = unit_vectors[: len(self.labels)] @ unit_vectors.T
        return Block(cosines, self.labels, self.rows, labels, rows, unit_vectors.shape[1], seed)

    def fill(self, memory: CrossBatchMemory) -> None:
        """Put what is remembered there."""
        memory.double()
        memory.store(torch.nn.functional.normalize(self.memory), self.memory_labels, self.memory_rows)


def draw(
    labels: list[int], memory_labels: list[int] | None = None, *, dim: int = 6, seed: int = 0, spread: float = 0.9
) -> Batch:
    """Classes that overlap; every third row of the memory is a row of the batch as it was embedded before."""
    generator = torch.Generator().manual_seed(seed)
    memory_labels = memory_labels or []
    every = torch.tensor([*labels, *memory_labels])
    centres = torch.randn(int(every.max()) + 1, dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(every), dim, generator=generator, dtype=torch.float64)
    vectors = centres[every] + spread * noise
    rows = torch.arange(len(every)) + 100
    for place in range(0, len(memory_labels), 3):
        if (again := [row for row, label in enumerate(labels) if label == memory_labels[place]]) != []:
            rows[len(labels) + place] = 100 + again[0]
    batch = len(labels)
    return Batch(vectors[:batch], every[:batch], rows[:batch], vectors[batch:], every[batch:], rows[batch:])


FEW = draw([0, 0, 0, 1, 1, 1, 2, 2, 2, 3], seed=1)
REPEATED = Batch(
    FEW.embeddings,
    FEW.labels,
    torch.tensor([1, 2, 1, 3, 4, 5, 6, 6, 6, 7]),
    *[FEW.memory, FEW.memory_labels, FEW.memory_rows],
)
MANY = draw([place // 22 for place in range(44)], seed=2)  # 21 positives a row
REMEMBERED = draw([0, 0, 1, 1, 2, 3], [0, 1, 2, 0, 1, 1, 2, 0, 4, 4, 3, 0], seed=3)
ALONE = draw([0, 1, 2, 3], seed=4)  # no positives
ONE_CLASS = draw([0, 0, 0], seed=5)  # no negatives
BATCHES = {
    "few": FEW,
    "repeated rows": REPEATED,
    "many positives": MANY,
    "a memory": REMEMBERED,
    "no positives": ALONE,
    "one class": ONE_CLASS,
}


def as_set(triplets: tuple[Tensor, Tensor, Tensor]) -> set[Triple]:
    """Triplets as plain numbers; none of them twice."""
    every = list(zip(*(part.tolist() for part in triplets), strict=True))
    assert len({*every}) == len(every)
    return {(a, p, n) for a, p, n in every}
