"""Cross-batch memory: the embeddings of earlier batches, to compare with (Wang et al., XBM, CVPR 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CrossBatchMemory(nn.Module):
    """The last ``size`` embeddings of unit length with their labels and training rows; all of it in ``state_dict``."""

    vectors: Tensor
    labels: Tensor
    rows: Tensor
    stored: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("vectors", torch.zeros(size, dim))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("rows", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("stored", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        """How many are stored now."""
        return min(self.size, int(self.stored))

    @torch.no_grad()
    def store(self, unit: Tensor, labels: Tensor, rows: Tensor) -> None:
        """Store a batch (B, E) in place of the oldest embeddings."""
        unit, labels, rows = unit[-self.size :], labels[-self.size :], rows[-self.size :]
        if not len(unit):
            return
        places = (int(self.stored) + torch.arange(len(unit), device=self.vectors.device)) % self.size
        self.vectors[places] = unit.to(self.vectors.dtype)
        self.labels[places] = labels
        self.rows[places] = rows
        self.stored += len(unit)

    def content(self, dim: int) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors (n, ``dim``) of unit length, labels and rows (n,); of fewer dimensions than E the first ones."""
        filled = len(self)
        vectors = self.vectors[:filled]
        if dim < vectors.shape[1]:
            vectors = nn.functional.normalize(vectors[:, :dim])
        return vectors, self.labels[:filled], self.rows[:filled]
