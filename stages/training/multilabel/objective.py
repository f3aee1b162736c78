"""The tasks that a network learns together, and how much each counts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.records import Records
from stages.training.losses.kernel import MarginSoftmax
from stages.training.multilabel.attribute_targets import Lessons
from stages.training.multilabel.losses import ContrastiveConfig, contrast, overlap
from stages.training.multilabel.network import MultilabelHeadConfig
from stages.training.multilabel.tasks import NameAttributes, NameWords, SayWords


class Objective(nn.Module):
    """The loss of hidden rows (B, E) and the numbers (B,) of their records: those of the tasks, added up.

    With equal weights the sum is plain. With learned ones it is exp(-s) times each loss, plus s / 2, and s of every
    task, from 0, is a weight of the network like any other: a task that stays hard counts for less.
    """

    sparse = False  # what the optimiser asks of every loss: whether some of its rows are moved one by one

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
        if self.noise is not None:
            lost = torch.exp(-self.noise) * lost + self.noise / 2
        return lost.sum()


class ByInstance(nn.Module):
    """A margin loss on the labels (N,) of all records, times a factor."""

    def __init__(self, loss: MarginSoftmax, labels: Tensor, weight: float) -> None:
        super().__init__()
        self.loss, self.labels, self.weight = loss, labels, weight

    def forward(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """See :mod:`stages.training.multilabel.tasks`."""
        lost: Tensor = self.loss(hidden, self.labels[rows])
        return self.weight * lost


class ByOverlap(nn.Module):
    """The contrastive loss by what the attributes of two records share."""

    def __init__(self, targets: list[Tensor], config: ContrastiveConfig) -> None:
        super().__init__()
        self.targets, self.config = targets, config

    def forward(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """See :mod:`stages.training.multilabel.tasks`."""
        return self.config.weight * contrast(hidden, overlap([of[rows] for of in self.targets]), self.config)


def build_objective(
    config: MultilabelHeadConfig,
    dim: int,
    records: Records,
    lessons: Lessons,
    instance: MarginSoftmax | None,
    labels: Tensor,
    generator: torch.Generator,
) -> Objective:
    """The objective of a hidden layer of ``dim`` numbers over ``records`` with ``labels`` (N,).

    ``instance`` is the loss on labels, if any; what is random is drawn from ``generator``.
    """
    attributes, vocabulary = lessons.attributes, lessons.vocabulary
    tasks: dict[str, nn.Module] = {}
    targets = [] if attributes is None else attributes.targets(records)
    if config.task != "tags":
        assert attributes is not None
        widths = [len(attribute.values) for attribute in attributes.learned]
        tasks["attributes"] = NameAttributes(dim, targets, widths, config.balanced, config.asymmetric, generator)
    if vocabulary is not None and config.tags == "gru":
        tasks["tags"] = SayWords(dim, *vocabulary.sentences(records), len(vocabulary.words), generator)
    elif vocabulary is not None:
        tasks["tags"] = NameWords(dim, vocabulary.bags(records), config.asymmetric, generator)
    if config.contrastive is not None:
        tasks["overlap"] = ByOverlap(targets, config.contrastive)
    if instance is not None:
        tasks["instance"] = ByInstance(instance, labels, config.instance_weight)
    return Objective(tasks, learned=config.task_weights == "learned")
