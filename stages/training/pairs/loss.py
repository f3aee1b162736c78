"""What the losses on pairs and proxies share with the training loop, and the loss that is a sum over rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.training.losses.angle import normalize
from stages.training.losses.rules import RandomState
from stages.training.pairs.block import PairStatistics
from stages.training.pairs.rows import LossOfRows, PairRule


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
        return min(self.size, int(self.stored))

    @torch.no_grad()
    def store(self, unit: Tensor, labels: Tensor, rows: Tensor) -> None:
        """Store a batch (B, E) in place of the oldest embeddings."""
        unit, labels, rows = unit[-self.size :], labels[-self.size :], rows[-self.size :]
        places = (int(self.stored) + torch.arange(len(unit), device=self.vectors.device)) % self.size
        self.vectors[places], self.labels[places], self.rows[places] = unit.to(self.vectors.dtype), labels, rows
        self.stored += len(unit)

    def content(self, dim: int) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors (n, ``dim``) of unit length, labels and rows (n,); of fewer dimensions than E the first ones."""
        vectors, labels, rows = (part[: len(self)] for part in (self.vectors, self.labels, self.rows))
        if dim < vectors.shape[1]:
            vectors = nn.functional.normalize(vectors[:, :dim])
        return vectors, labels, rows


class PairLoss(nn.Module):
    """A loss on pairs or proxies as the training loop sees it. All that a resumed run needs is in ``state_dict``.

    In a step the loop calls :meth:`at`, the loss itself (once or more, for nested sizes the whole embedding last), and
    :meth:`after_step`.

    >>> from stages.training import SupConConfig
    >>> loss = SupConConfig(memory=4).build(8, torch.tensor([2, 2]), torch.Generator().manual_seed(0))
    >>> value = loss(torch.eye(4, 8), torch.tensor([0, 0, 1, 1]))
    >>> loss.after_step()
    >>> round(float(value), 3), len(loss.memory), loss.take_statistics().positives
    (1.099, 4, 4)
    """

    uses_worker_threads = True  # rather than leave that to PyTorch

    def __init__(self) -> None:
        super().__init__()
        self._statistics = PairStatistics()

    def at(self, share: float) -> None:
        """Set the schedules to where they stand after ``share`` of the training, in [0, 1]."""

    def forward(self, embeddings: Tensor, labels: Tensor, rows: Tensor | None = None) -> Tensor:
        """The loss of ``embeddings`` (B, E), of any length, with ``labels`` (B,) in [0, C): a scalar.

        ``rows`` (B,) are the numbers of the training rows, by which a row is known when it comes again; without them
        all rows are different.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward: a loss is a subclass that does")

    def after_step(self) -> None:
        """A step has been made with what the last call was given."""

    @property
    def prototypes(self) -> Tensor | None:
        """A vector or more of each class, a view (k, C, E) of what is trained; None where there are none."""
        return None

    @property
    def fast(self) -> tuple[list[nn.Parameter], float]:
        """Weights that move at another learning rate than the rest, and how many times the rate."""
        return [], 1.0

    def take_statistics(self) -> PairStatistics:
        """Those since the last call."""
        statistics, self._statistics = self._statistics, PairStatistics()
        return statistics


class RowWise(PairLoss):
    """A loss that is a sum over rows, each compared with the batch and the memory."""

    def __init__(self, rule: PairRule, memory: CrossBatchMemory, generator: torch.Generator) -> None:
        super().__init__()
        self.rule, self.memory = rule, memory
        self.random_state = RandomState(generator)
        self._latest: tuple[Tensor, Tensor, Tensor] | None = None

    def at(self, share: float) -> None:
        self.rule.at(share)

    def forward(self, embeddings: Tensor, labels: Tensor, rows: Tensor | None = None) -> Tensor:
        if rows is None:  # numbers that no row had before
            rows = -1 - int(self.memory.stored) - torch.arange(len(labels), device=labels.device)
        unit = normalize(embeddings)
        drawn = torch.empty((), dtype=torch.int64, device="cpu").random_(2**48, generator=self.random_state.generator)
        memory, memory_labels, memory_rows = self.memory.content(unit.shape[1])
        known = memory, torch.cat([labels, memory_labels]), torch.cat([rows, memory_rows])
        counted: list[PairStatistics] = []
        value: Tensor = LossOfRows.apply(unit, self.rule, *known, int(drawn), counted, *self.rule.parameters())
        self._statistics += counted[0]
        self._latest = unit.detach(), labels, rows
        return value

    def after_step(self) -> None:
        if self.memory.size and self._latest is not None:
            self.memory.store(*self._latest)
        self._latest = None
