"""The training loop: one head, an epoch at a time, which can be stopped and continued after any epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cache.errors import DivergedError
from stages.malloc import keep_freed_memory
from stages.training.head import EpochLog
from stages.training.heads.inputs import in_blocks
from stages.training.heads.networks import HeadNetwork, LinearHead
from stages.training.losses.kernel import MarginSoftmax
from stages.training.losses.rule import RandomState
from stages.training.losses.shards import check_same
from stages.training.multilabel.kinds import MultilabelHeadConfig
from stages.training.multilabel.tasks import Objective, build_objective
from stages.training.pairs.loss import PairLoss
from stages.training.rows.labelled_rows import InMemory, LabelledRows, RowSource
from stages.training.rows.prefetch import prefetch
from stages.training.rows.sampling import DomainWeighted, build_sampler
from stages.training.rows.validation import ValidationSet
from stages.training.training_inputs import TrainingInputs
from stages.training.weights.averaging import WeightAverage, Weights
from stages.training.weights.checkpoint import Checkpoint
from stages.training.weights.initialization import start_network, start_prototypes
from stages.training.weights.sam import sam_gradient
from stages.training.worker_threads import one_thread_each

OnEpoch = Callable[[EpochLog], None]
Phase = Literal["choose", "train"]
CPU = torch.device("cpu")

_PREPARED_BYTES = 2**30  # up to here the steps before the map are applied once, and kept as float32 in memory


class Trained(NamedTuple):
    """A network with the weights that are kept, its weights at the start, and its log."""

    network: HeadNetwork
    start: Weights
    log: list[EpochLog]


class Batch(NamedTuple):
    """Features (B, D), labels (B,), and the numbers of the records (B,)."""

    features: Tensor
    labels: Tensor
    records: Tensor


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """One head to train: on which rows, from which start, for how long.

    The start is computed on the CPU, the steps on ``inputs.device``, and the trained network returns to the CPU.

    Attributes:
        inputs: the settings, and what else the head follows from.
        rows: what it is trained on.
        fitted: the closed form that it starts at.
        epochs: how long; the schedules are those of ``inputs``.
        phase: ``choose`` finds the best epoch, ``train`` makes the head.
        member: the number of the head in a soup, from 1.
        validation: what an epoch is scored by.
        domain_weights: the shares of the domains in each epoch, where they are repeated rather than moved.
    """

    inputs: TrainingInputs
    rows: LabelledRows
    fitted: LinearHead | None
    epochs: int
    phase: Phase = "train"
    member: int = 1
    validation: ValidationSet | None = None
    domain_weights: Sequence[dict[str, float] | None] = ()


def train(job: TrainingJob, on_epoch: OnEpoch, checkpoint: Checkpoint) -> Trained:
    """The network with the weights of the epoch that is kept, the last where nothing is validated, and the log."""
    keep_freed_memory()
    name = f"{job.phase} {job.member}"
    run = _Run(job)
    if (saved := checkpoint.part(name)) is not None:
        run.restore(saved)
    while not run.finished:
        run.epoch()
        checkpoint.keep(name, run.state())
        on_epoch(run.log[-1])
    run.network.load_state_dict(run.best)
    return Trained(run.network.to(CPU), run.start, run.log)


def best_epoch(log: Sequence[EpochLog]) -> int:
    """The number of the epoch of the highest validation score, the first on a tie."""
    return max(log, key=lambda epoch: epoch.validation_mmp5 or 0.0).epoch


class _Run:
    """A head in training. All that an epoch changes is in :meth:`state`."""

    def __init__(self, job: TrainingJob) -> None:
        inputs, recipe, rows = job.inputs, job.inputs.recipe, job.rows
        self.job, self.log = job, list[EpochLog]()
        self.best: Weights = {}
        generator = torch.Generator().manual_seed(inputs.seed)  # one for every member of a soup: they share a start
        self.network = start_network(recipe.head, job.fitted, rows, rows.blocks, generator)
        self.loss = _build_loss(job, self.network, generator)
        prototypes = None if isinstance(self.loss, Objective) else self.loss.prototypes
        if job.fitted is not None and prototypes is not None:
            start_prototypes(prototypes, self.network, rows, torch.from_numpy(rows.labels))
        self.start = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self._source: RowSource = rows.source
        self._map: Callable[[Tensor, torch.Generator], Tensor] = self.network.project
        if isinstance(rows.source, InMemory) and rows.source.features.size * 4 <= _PREPARED_BYTES:
            prepared = in_blocks(self.network.inputs, torch.from_numpy(rows.source.features))
            self._source, self._map = InMemory(prepared.numpy()), self.network.transform
        # What is random so far is drawn on the CPU: a head has the same start on every device.
        self.network.to(inputs.device)
        self.loss.to(inputs.device)
        self._optimizer = recipe.optimizer.build(self.network.parameters(), self.loss)
        self._dropout = _generator_on(torch.device(inputs.device), member_seed(inputs.seed, job.member))
        self._average = WeightAverage(self.network, recipe.training.ema, recipe.training.soup_epochs)
        self._parts: dict[str, Any] = {
            "network": self.network,
            "loss": self.loss,
            "optimizer": self._optimizer,
            "average": self._average,
        }
        self._sizes = (*getattr(recipe.head, "nested", ()), recipe.head.dim or self.network.dim)
        self._sampler = build_sampler(
            recipe.training.sampling, rows.labels, rows.domains, recipe.training.batch_size, blocks=inputs.mapped
        )

    @property
    def finished(self) -> bool:
        """True after the last epoch, or once validation has not improved for as many epochs as the settings allow."""
        patience, done = self.job.inputs.training.patience, len(self.log)
        patient = not patience or self.job.validation is None or not done
        return done == self.job.epochs or not (patient or done - best_epoch(self.log) < patience)

    def epoch(self) -> None:
        """Train for one epoch, validate, and log it."""
        started, number = time.perf_counter(), len(self.log)
        shares = self._repeat_domain_weights(number)
        on_all_threads = isinstance(self.loss, PairLoss) and not self.loss.uses_worker_threads
        with nullcontext() if on_all_threads else one_thread_each():
            loss, rate = self._train_epoch(number)
        if self.job.inputs.group is not None:
            check_same(self.network, self.job.inputs.group)
        weights = self._average.after_epoch()
        score = self._validated(weights)
        seconds, job = time.perf_counter() - started, self.job
        entry = EpochLog(job.phase, number + 1, loss, rate, score, seconds, job.member, shares)
        if isinstance(self.loss, PairLoss):
            taken = self.loss.take_statistics()
            pairs = taken.chosen / self._sampler.steps if taken.chosen else None
            entry = replace(entry, pairs=pairs, zero_share=taken.zero_share, hardness=taken.hardness)
        self.log.append(entry)
        last = score is None or job.inputs.training.keep == "last"
        if last or best_epoch(self.log) == number + 1:
            self.best = weights

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` takes; of a finished run no more than its outcome."""
        outcome = {"best": self.best, "log": [asdict(epoch) for epoch in self.log]}
        if self.finished:
            return outcome
        weights = self._sampler.weights.tolist() if isinstance(self._sampler, DomainWeighted) else None
        states = {name: part.state_dict() for name, part in self._parts.items()}
        return outcome | states | {"dropout": self._dropout.get_state(), "domain_weights": weights}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken."""
        self.best, self.log = state["best"], [EpochLog(**epoch) for epoch in state["log"]]
        if self.finished:
            return
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        self._dropout.set_state(state["dropout"])
        if isinstance(self._sampler, DomainWeighted):
            self._sampler.move_to(np.array(state["domain_weights"]))

    def _train_epoch(self, number: int) -> tuple[float, float]:
        """Train epoch ``number``, from 0; its mean loss and its last learning rate."""
        inputs, rows, steps = self.job.inputs, self.job.rows, self._sampler.steps
        epochs, optimizer = inputs.training.epochs, inputs.recipe.optimizer
        last = max(1, steps * epochs - 1)
        rng = np.random.default_rng((inputs.seed, self.job.member, number))
        places = np.arange(len(rows)) * rows.views
        if inputs.training.views == "random" and rows.views > 1:
            places += rng.integers(rows.views, size=len(rows))
        batches = self._sampler.epoch(rng)
        total, visited, rate = 0.0, 0, 0.0
        prefetched = zip(prefetch(self._source, rows.labels, batches, places), batches, strict=True)
        for step, ((features, labels), records) in enumerate(prefetched, number * steps):
            batch = Batch(*(part.to(self.job.inputs.device) for part in (features, labels, torch.from_numpy(records))))
            rate = optimizer.learning_rate(step, steps, epochs)
            self.loss.at(step / last)
            total += self._finite(self._step(batch, rate), number + 1) * len(records)
            visited += len(records)
        return total / visited, rate

    def _validated(self, weights: Weights) -> float | None:
        """The score of the network with ``weights``; it then has its own again."""
        if (validation := self.job.validation) is None:
            return None
        own = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.network.load_state_dict(weights)
        score = validation.score(self._embed)
        if isinstance(self._sampler, DomainWeighted):
            scores = validation.by_domain(self._embed)
            self._sampler.move(np.array([1 - scores.get(name, 1.0) for name in self.job.rows.domain_names]))
        self.network.load_state_dict(own)
        return score

    def _embed(self, features: Tensor) -> Tensor:
        """Embeddings (n, E) of ``features`` (n, D), both on the CPU."""
        embeddings: Tensor = self.network(features.to(self.job.inputs.device))
        return embeddings.to(CPU)

    def _step(self, batch: Batch, rate: float) -> float:
        self._optimizer.zero_grad()
        rho = self.job.inputs.training.sam_rho
        value = self._sharp_gradient(batch, rho) if rho else self._gradient(batch)
        self._optimizer.step(rate)
        self._average.after_step()
        if isinstance(self.loss, PairLoss):
            self.loss.after_step()
        return float(value)

    def _gradient(self, batch: Batch) -> Tensor:
        """The loss of a batch; its gradients are added to those of the weights."""
        embeddings = self._map(batch.features, self._dropout)
        rest = [batch.records] if isinstance(self.loss, Objective) else [batch.labels]
        rest += [batch.records] if isinstance(self.loss, PairLoss) else []
        value = torch.stack([self.loss(embeddings[:, :size], *rest) for size in self._sizes]).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach()

    def _sharp_gradient(self, batch: Batch, rho: float) -> Tensor:
        states_of = (module for module in self.loss.modules() if isinstance(module, RandomState))
        generators = [self._dropout, *(state.generator for state in states_of)]
        states = [generator.get_state() for generator in generators]

        def value() -> Tensor:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
            return self._gradient(batch)

        weights = [*self.network.parameters(), *self.loss.parameters()]
        dense = [weight for weight in weights if not any(weight is table.weight for table in self._optimizer.tables)]
        memory = [*self.network.buffers(), *self.loss.buffers()]
        return sam_gradient(value, self._optimizer.zero_grad, dense, memory, rho)

    def _repeat_domain_weights(self, number: int) -> dict[str, float] | None:
        """The shares of the domains in epoch ``number``, where the sampling has them."""
        if not isinstance(self._sampler, DomainWeighted):
            return None
        names = self.job.rows.domain_names
        if number < len(self.job.domain_weights) and (given := self.job.domain_weights[number]) is not None:
            self._sampler.shares = np.array([given[name] for name in names])
        return dict(zip(names, self._sampler.shares.tolist(), strict=True))

    def _finite(self, loss: float, epoch: int) -> float:
        if math.isfinite(loss):
            return loss
        optimizer, scale = self.job.inputs.recipe.optimizer, getattr(self.job.inputs.recipe.loss, "scale", None)
        or_scale = "" if scale is None else f" or loss.scale ({scale})"
        raise DivergedError(
            f"the loss became {loss} in epoch {epoch}. Lower optimizer.lr ({optimizer.lr:g}){or_scale}"
            f", or lengthen the warm-up ({optimizer.warmup_epochs:g} epochs)."
        )


def _build_loss(
    job: TrainingJob, network: HeadNetwork, generator: torch.Generator
) -> MarginSoftmax | PairLoss | Objective:
    """What trains the network, initialized from ``generator``; for attributes, with the loss on labels in it."""
    recipe, labels, targets = job.inputs.recipe, job.rows.labels, job.inputs.attribute_targets
    dim, loss = recipe.head.dim or network.dim, None
    if recipe.loss is not None:
        sizes, group = torch.from_numpy(np.bincount(labels)), job.inputs.group
        shared = {} if group is None else {"group": group}  # refused for a loss on pairs
        loss = recipe.loss.build(dim, sizes, generator, **shared)
    if targets is not None:
        assert isinstance(recipe.head, MultilabelHeadConfig)
        assert not isinstance(loss, PairLoss)  # refused with the settings
        return build_objective(recipe.head, targets, dim, job.rows.records, loss, torch.from_numpy(labels), generator)
    assert loss is not None
    return loss


def _generator_on(device: torch.device, seed: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def member_seed(seed: int, member: int) -> int:
    """The seed of the dropout of a soup's ``member``, from 1."""
    return int(np.random.SeedSequence((seed, member)).generate_state(1, np.uint64)[0] >> np.uint64(1))
