"""The tasks that a network learns together, and how much each counts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.training.losses.kernel import MarginSoftmax
from stages.training.multilabel.losses import ContrastiveConfig, contrast, overlap
from stages.training.multilabel.tasks import fixed


class Objective(nn.Module):
    """The loss of hidden rows (B, E) and the numbers (B,) of their records: those of the tasks, added up.

    With equal weights the sum is plain. With learned ones it is exp(-s) times each loss, plus s / 2, with a parameter s
    of every task, from 0: a task that stays hard counts for less.
    """

    sparse = False  # as every loss says to the optimiser: no rows are moved one by one

    def __init__(self, tasks: dict[str, nn.Module], *, learned: bool) -> None:
        super().__init__()
        self.tasks = nn.ModuleDict(tasks)
        self.noise = nn.Parameter(torch.zeros(len(tasks))) if learned else None

    def at(self, share: float) -> None:
        """Set the schedules to where they stand after ``share`` of the training, in [0, 1]."""
        for task in self.tasks.values():
            if isinstance(task, ByInstance):
                task.loss.at(share)

    def forward(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """The loss, a scalar."""
        lost = torch.stack([task(hidden, rows) for task in self.tasks.values()])
        if self.noise is not None:  # the likelihood of a task of noise variance exp(s), Kendall et al.
            lost = torch.exp(-self.noise) * lost + self.noise / 2
        return lost.sum()


class ByInstance(nn.Module):
    """A margin loss on the labels (N,) of all records, times a factor."""

    labels: Tensor

    def __init__(self, loss: MarginSoftmax, labels: Tensor, weight: float) -> None:
        super().__init__()
        self.loss, self.weight = loss, weight
        self.register_buffer("labels", labels, persistent=False)

    def forward(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """See :mod:`stages.training.multilabel.tasks`."""
        lost: Tensor = self.loss(hidden, self.labels[rows])
        return self.weight * lost


class ByOverlap(nn.Module):
    """The contrastive loss by what the attributes of two records share."""

    def __init__(self, targets: list[Tensor], config: ContrastiveConfig) -> None:
        super().__init__()
        self.targets, self.config = fixed(targets), config

    def forward(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """See :mod:`stages.training.multilabel.tasks`."""
        return self.config.weight * contrast(
            hidden, overlap([target[rows] for target in self.targets.buffers()]), self.config
        )
