"""The shallow network, and what it learns together: tasks of the hidden layer, their losses, how much each counts.

A task is a module that maps hidden rows (B, E) and the numbers of their records (B,) to a scalar loss. It holds the
targets of all training records. Such heads are trained on the CPU alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

from stages.records import Records
from stages.training.heads.networks import HeadNetwork, Inputs
from stages.training.losses.angle import normalize
from stages.training.losses.kernel import MarginSoftmax
from stages.training.multilabel.kinds import AsymmetricConfig, AttributeContrastConfig, MultilabelHeadConfig
from stages.training.multilabel.labels import AttributeTargets

HIDDEN = 512  # the size of the word generator's state
_WORD = 128  # the size of a word's vector
BIAS = 0.01
_LEAST = 1e-8


class MultilabelNetwork(HeadNetwork):
    """``weights`` and ``biases`` of each layer, on what ``inputs`` makes of a feature."""

    def __init__(self, inputs: Inputs, maps: Sequence[tuple[Tensor, Tensor]]) -> None:
        super().__init__(inputs)
        self.weights = nn.ParameterList([nn.Parameter(weight) for weight, _ in maps])
        self.biases = nn.ParameterList([nn.Parameter(bias) for _, bias in maps])

    @property
    def dim(self) -> int:
        return len(self.biases[-1])

    def transform(self, prepared: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        del dropout
        hidden = prepared
        for weight, bias in zip(self.weights, self.biases, strict=True):
            hidden = torch.relu(nn.functional.linear(hidden, weight, bias))
        return hidden


def kaiming_map(outputs: int, inputs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A weight (``outputs``, ``inputs``), uniform within sqrt(6 / ``inputs``), and a bias (``outputs``,) of 0.01."""
    weight = torch.empty(outputs, inputs)
    nn.init.kaiming_uniform_(weight, generator=generator)
    return weight, torch.full((outputs,), BIAS)


def balanced_weights(counts: Tensor, beta: float) -> Tensor:
    """The weight (C,) of each value by its ``counts`` (C,) of records; their mean is 1."""
    weights = (1 - beta) / (1 - beta ** counts.clamp(min=1).double())
    return (weights / weights.mean()).float()


def binary(logits: Tensor, there: Tensor, config: AsymmetricConfig | None) -> Tensor:
    """The loss (n, C) of values that are ``there``, 1, or not, 0: asymmetric, or without ``config`` cross entropy."""
    if config is None:
        return functional.binary_cross_entropy_with_logits(logits, there, reduction="none")
    probability = logits.sigmoid()
    # Exponents below 1 have an infinite slope at 0: no power is taken of less than _LEAST.
    absent = (probability - config.clip).clamp(min=_LEAST)
    positive = (1 - probability).clamp(min=_LEAST) ** config.positive * probability.clamp(min=_LEAST).log()
    negative = absent**config.negative * (1 - absent).clamp(min=_LEAST).log()
    return -(there * positive + (1 - there) * negative)


def overlap(targets: Sequence[Tensor]) -> Tensor:
    """The share (B, B) of the attributes that row i has, or of their several values, that row j has too."""
    shared, known = torch.zeros(()), torch.zeros(())
    for target in targets:
        if target.ndim == 1:
            there = target >= 0
            same = (target[:, None] == target).float()
        else:
            there = ~target[:, 0].isnan()
            values = target.nan_to_num()
            common = values @ values.T
            sizes = values.sum(1)
            same = common / (sizes[:, None] + sizes - common).clamp(min=1)
        shared = shared + same * there[:, None] * there
        known = known + there[:, None]
    return shared / known.clamp(min=1)


def contrast(hidden: Tensor, shared: Tensor, config: AttributeContrastConfig) -> Tensor:
    """The mean contrastive loss of rows of ``hidden`` (B, E) that overlap with others, by ``shared`` (B, B)."""
    others = ~torch.eye(len(hidden), dtype=torch.bool, device=hidden.device)
    weights = shared**config.power * others
    unit = normalize(hidden)
    similarity = (unit @ unit.T / config.temperature).masked_fill(~others, -torch.inf)
    losses = -functional.log_softmax(similarity, 1).masked_fill(~others, 0)
    total = weights.sum(1)
    rows = (weights * losses).sum(1) / total.clamp(min=_LEAST)
    counted = total > _LEAST
    return (rows * counted).sum() / counted.sum().clamp(min=1)


class AttributeClassifiers(nn.Module):
    """A classifier of the hidden layer for each attribute: the mean over attributes of the mean over known rows.

    A categorical attribute loses its cross entropy, one of several values the sum over its values.
    """

    def __init__(
        self,
        dim: int,
        targets: Sequence[Tensor],
        widths: Sequence[int],
        beta: float,
        config: AsymmetricConfig | None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.targets, self.widths, self.config = targets, list(widths), config
        self.weight, self.bias = map(nn.Parameter, kaiming_map(sum(widths), dim, generator))  # one product for all
        counts = (_counts(target, width) for target, width in zip(targets, widths, strict=True))
        self.weights = [balanced_weights(count, beta) if beta else None for count in counts]

    def forward(self, hidden: Tensor, rows: Tensor) -> Tensor:
        logits = torch.split(functional.linear(hidden, self.weight, self.bias), self.widths, dim=1)
        targets = [target[rows] for target in self.targets]
        return torch.stack([self._loss(*each) for each in zip(logits, targets, self.weights, strict=True)]).mean()

    def _loss(self, logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
        if target.ndim == 1:
            if (target < 0).all():
                return logits.sum() * 0
            return functional.cross_entropy(logits, target, weights, ignore_index=-1)
        known = (~target[:, 0].isnan()).nonzero()[:, 0]
        losses = binary(logits[known], target[known], self.config)
        return (losses if weights is None else losses * weights).sum() / max(len(known), 1)


class WordClassifier(nn.Module):
    """Which words a record's tags have, whatever their order: the mean over rows of the sum over words."""

    def __init__(self, dim: int, bags: Tensor, config: AsymmetricConfig | None, generator: torch.Generator) -> None:
        super().__init__()
        self.bags, self.config = bags, config
        self.weight, self.bias = map(nn.Parameter, kaiming_map(bags.shape[1], dim, generator))

    def forward(self, hidden: Tensor, rows: Tensor) -> Tensor:
        bags = self.bags[rows]
        known = (~bags[:, 0].isnan()).nonzero()[:, 0]
        logits = functional.linear(hidden[known], self.weight, self.bias)
        return binary(logits, bags[known], self.config).sum() / max(len(known), 1)


class TagGenerator(nn.Module):
    """The words of a record's tags one after another: a GRU whose first state is made from the hidden layer.

    ::

        start, w_1, ..., w_n -> GRU(512) -> w_1, ..., w_n, end        the mean cross entropy of all words of the batch
    """

    def __init__(self, dim: int, sentences: Tensor, counts: Tensor, words: int, generator: torch.Generator) -> None:
        super().__init__()
        self.counts = counts
        self.inputs = functional.pad(sentences, (1, 0), value=words).clamp(min=0)  # W is the start, and the end
        self.targets = functional.pad(sentences, (0, 1), value=-1).scatter(1, counts.clamp(min=0)[:, None], words)
        self.reading = nn.Parameter(torch.empty(words + 1, _WORD).normal_(generator=generator))
        self.gru = nn.GRU(_WORD, HIDDEN, device="meta").to_empty(device="cpu")  # without draws of the global generator
        bound = HIDDEN**-0.5  # the range of nn.GRU
        for name in ("weight_ih_l0", "bias_ih_l0", "weight_hh_l0", "bias_hh_l0"):
            nn.init.uniform_(getattr(self.gru, name), -bound, bound, generator=generator)
        self.start, self.start_bias = map(nn.Parameter, kaiming_map(HIDDEN, dim, generator))
        self.say, self.say_bias = map(nn.Parameter, kaiming_map(words + 1, HIDDEN, generator))

    def forward(self, hidden: Tensor, rows: Tensor) -> Tensor:
        known = (self.counts[rows] >= 0).nonzero()[:, 0]
        if not len(known):
            return hidden.sum() * 0
        order = known[torch.argsort(self.counts[rows[known]], descending=True, stable=True)]
        rows = rows[order]
        lengths = self.counts[rows] + 1
        longest = int(lengths[0])
        words = functional.relu(functional.embedding(self.inputs[rows, :longest], self.reading))
        first = functional.linear(hidden[order], self.start, self.start_bias)
        states, _ = self.gru(pack_padded_sequence(words, lengths, batch_first=True), first[None])
        targets = pack_padded_sequence(self.targets[rows, :longest], lengths, batch_first=True).data
        return functional.cross_entropy(functional.linear(states.data, self.say, self.say_bias), targets)


class ByInstance(nn.Module):
    """A margin loss on the labels (N,) of all records, times a factor."""

    def __init__(self, loss: MarginSoftmax, labels: Tensor, weight: float) -> None:
        super().__init__()
        self.loss, self.labels, self.weight = loss, labels, weight

    def forward(self, hidden: Tensor, rows: Tensor) -> Tensor:
        lost: Tensor = self.loss(hidden, self.labels[rows])
        return self.weight * lost


class ByOverlap(nn.Module):
    """The contrastive loss by what the attributes of two records share."""

    def __init__(self, targets: Sequence[Tensor], config: AttributeContrastConfig) -> None:
        super().__init__()
        self.targets, self.config = targets, config

    def forward(self, hidden: Tensor, rows: Tensor) -> Tensor:
        shared = overlap([target[rows] for target in self.targets])
        return self.config.weight * contrast(hidden, shared, self.config)


class Objective(nn.Module):
    """The loss of hidden rows (B, E) and the numbers (B,) of their records: those of the tasks, added up.

    With equal weights the sum is plain. With learned ones it is exp(-s) times each loss, plus s / 2, with a parameter s
    of every task, from 0: a task that stays hard counts for less.
    """

    def __init__(self, tasks: dict[str, nn.Module], *, learned: bool) -> None:
        super().__init__()
        self.tasks = nn.ModuleDict(tasks)
        self.noise = nn.Parameter(torch.zeros(len(tasks))) if learned else None

    def at(self, share: float) -> None:
        for task in self.tasks.values():
            if isinstance(task, ByInstance):
                task.loss.at(share)

    def forward(self, hidden: Tensor, rows: Tensor) -> Tensor:
        lost = torch.stack([task(hidden, rows) for task in self.tasks.values()])
        if self.noise is not None:  # the likelihood of a task of noise variance exp(s), Kendall et al.
            lost = torch.exp(-self.noise) * lost + self.noise / 2
        return lost.sum()


def build_objective(
    head: MultilabelHeadConfig,
    targets: AttributeTargets,
    dim: int,
    records: Records,
    instance: MarginSoftmax | None,
    labels: Tensor,
    generator: torch.Generator,
) -> Objective:
    """The objective of a hidden layer of size ``dim`` over ``records``; ``instance`` is the loss on ``labels`` (N,)."""
    tasks: dict[str, nn.Module] = {}
    words, attributes = targets.vocabulary, targets.attributes
    each = [] if attributes is None else attributes.targets(records)
    if attributes is not None and head.task != "tags":
        widths = [len(attribute.values) for attribute in attributes.learned]
        tasks["attributes"] = AttributeClassifiers(dim, each, widths, head.balanced, head.asymmetric, generator)
    if words is not None and head.tags == "gru":
        tasks["tags"] = TagGenerator(dim, *words.sentences(records), len(words.words), generator)
    elif words is not None:
        tasks["tags"] = WordClassifier(dim, words.bags(records), head.asymmetric, generator)
    if head.contrastive is not None:
        tasks["overlap"] = ByOverlap(each, head.contrastive)
    if instance is not None:
        tasks["instance"] = ByInstance(instance, labels, head.instance_weight)
    return Objective(tasks, learned=head.task_weights == "learned")


def _counts(target: Tensor, width: int) -> Tensor:
    """In how many records (C,) each value is."""
    if target.ndim == 1:
        return torch.bincount(target[target >= 0], minlength=width)
    return target.nan_to_num().sum(0)
