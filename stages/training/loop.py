"""The training loop: one head on its way, an epoch at a time, which can be put down and taken up after any epoch."""

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

from cache.errors import PermafrostError
from stages.malloc import keep_freed_memory
from stages.records import Records
from stages.training.averaging import Shown, Weights
from stages.training.checkpoint import Checkpoint
from stages.training.head import EpochLog
from stages.training.heads.inputs import by_blocks
from stages.training.heads.linear import LinearHead
from stages.training.heads.network import HeadNetwork
from stages.training.initialization import start_network, start_prototypes
from stages.training.loss import Loss
from stages.training.losses.random_state import RandomState
from stages.training.multilabel import MultilabelHeadConfig
from stages.training.multilabel.objective import Objective, build_objective
from stages.training.pairs import PairLoss
from stages.training.prefetch import feed
from stages.training.rows import InMemory, LabelledRows, RowSource
from stages.training.sam import sharp_gradient
from stages.training.sampling import DomainWeighted, build_sampler
from stages.training.setup import Setup
from stages.training.validation import ValidationSet
from stages.training.worker_threads import one_thread_each

OnEpoch = Callable[[EpochLog], None]
Phase = Literal["choose", "train"]

_PREPARED_BYTES = 2**30  # up to here the steps before the map are done once, and their float32 result is kept


class Trained(NamedTuple):
    """A network with the weights that are kept, what it started at, and its log."""

    network: HeadNetwork
    start: Weights
    log: list[EpochLog]


class Batch(NamedTuple):
    """Features (B, D), labels (B,), and the numbers of the records (B,)."""

    features: Tensor
    labels: Tensor
    records: Tensor


@dataclass(frozen=True, eq=False)
class Part:
    """One head to train: on which rows, from where, how long; ``member`` of a soup, from 1.

    ``fitted`` is the closed form that it starts at. ``domain_weights`` are the shares of each epoch, where they are
    repeated rather than moved. ``records`` are those of ``rows``, for a head that learns more of them than labels.
    """

    setup: Setup
    rows: LabelledRows
    fitted: LinearHead | None
    epochs: int
    phase: Phase
    member: int = 1
    validation: ValidationSet | None = None
    domain_weights: Sequence[dict[str, float] | None] = ()
    records: Records | None = None


def train(part: Part, tell: OnEpoch, checkpoint: Checkpoint) -> Trained:
    """The network with the weights of the best epoch, or of the last where nothing is validated, and the log."""
    keep_freed_memory()
    name = f"{part.phase} {part.member}"
    run = _Run(part)
    if (kept := checkpoint.part(name)) is not None:
        run.restore(kept)
    while not run.finished:
        run.epoch()
        checkpoint.keep(name, run.state())
        tell(run.log[-1])
    run.network.load_state_dict(run.kept)
    return Trained(run.network, run.start, run.log)


def best_epoch(log: Sequence[EpochLog]) -> int:
    """The number of the epoch of the highest validation score, the first on a tie."""
    return max(log, key=lambda epoch: epoch.validation_mmp5 or 0.0).epoch


class _Run:
    """A head on its way. All that an epoch changes is in :meth:`state`."""

    def __init__(self, part: Part) -> None:
        setup, rows = part.setup, part.rows
        self.part, self.log = part, list[EpochLog]()
        self.kept: Weights = {}
        drawn = torch.Generator().manual_seed(setup.seed)  # the same for every member of a soup: they share a start
        self.network = start_network(setup.head, part.fitted, rows, rows.blocks, drawn)
        self.loss = _loss(part, self.network, drawn)
        prototypes = None if isinstance(self.loss, Objective) else self.loss.prototypes
        if part.fitted is not None and prototypes is not None:
            start_prototypes(prototypes, self.network, rows, torch.from_numpy(rows.labels))
        self.start = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self._optimizer = setup.optimizer.build(self.network.parameters(), self.loss)
        self._dropout = torch.Generator().manual_seed(member_seed(setup.seed, part.member))
        self._shown = Shown(self.network, setup.training.ema, setup.training.soup_epochs)
        self._sizes = (*getattr(setup.head, "nested", ()), setup.head.dim or self.network.dim)
        self._sampler = build_sampler(
            setup.training.sampling, rows.labels, rows.domains, setup.training.batch_size, blocks=setup.mapped
        )
        self._source: RowSource = rows.source
        self._map: Callable[[Tensor, torch.Generator], Tensor] = self.network.project
        if isinstance(rows.source, InMemory) and rows.source.features.size * 4 <= _PREPARED_BYTES:
            self._source, self._map = self._prepared(rows.source), self.network.transform

    @property
    def finished(self) -> bool:
        """True when all epochs are made, or validation has not got better for as many as the settings allow."""
        training, done = self.part.setup.training, len(self.log)
        patient = not training.patience or self.part.validation is None or not done
        return done == self.part.epochs or not (patient or done - best_epoch(self.log) < training.patience)

    def epoch(self) -> None:
        """Move the weights for one epoch, validate, and write it down."""
        started, number = time.perf_counter(), len(self.log)
        shares = self._repeat_domain_weights(number)
        with (
            nullcontext()
            if isinstance(self.loss, PairLoss) and not self.loss.uses_worker_threads
            else one_thread_each()
        ):
            loss, rate = self._move(number)
        shown = self._shown.after_epoch()
        score = self._validated(shown)
        seconds = time.perf_counter() - started
        part = self.part
        entry = EpochLog(part.phase, number + 1, loss, rate, score, seconds, part.member, shares)
        self.log.append(self._with_found(entry))
        if score is None or best_epoch(self.log) == number + 1:
            self.kept = shown

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` takes; of a finished run no more than its outcome."""
        outcome = {"kept": self.kept, "log": [asdict(epoch) for epoch in self.log]}
        if self.finished:
            return outcome
        weights = self._sampler.weights.tolist() if isinstance(self._sampler, DomainWeighted) else None
        return outcome | {
            "network": self.network.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "dropout": self._dropout.get_state(),
            "shown": self._shown.state(),
            "domain_weights": weights,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self.kept, self.log = state["kept"], [EpochLog(**epoch) for epoch in state["log"]]
        if self.finished:
            return
        self.network.load_state_dict(state["network"])
        self.loss.load_state_dict(state["loss"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._dropout.set_state(state["dropout"])
        self._shown.restore(state["shown"])
        if isinstance(self._sampler, DomainWeighted):
            self._sampler.move_to(np.array(state["domain_weights"]))

    def _move(self, number: int) -> tuple[float, float]:
        """Epoch ``number``, from 0: its mean loss and its last learning rate."""
        setup, rows, steps = self.part.setup, self.part.rows, self._sampler.steps
        last = max(1, steps * setup.training.epochs - 1)
        rng = np.random.default_rng((setup.seed, self.part.member, number))
        places = np.arange(len(rows)) * rows.views
        if setup.training.views == "random" and rows.views > 1:
            places += rng.integers(rows.views, size=len(rows))
        batches = self._sampler.epoch(rng)
        total, visited, rate = 0.0, 0, 0.0
        fed = zip(feed(self._source, rows.labels, batches, places), batches, strict=True)
        for step, ((features, labels), records) in enumerate(fed, number * steps):
            batch = Batch(features, labels, torch.from_numpy(records))
            rate = setup.optimizer.learning_rate(step, steps, setup.training.epochs)
            self.loss.at(step / last)
            total += self._finite(self._step(batch, rate), number + 1) * len(records)
            visited += len(records)
        return total / visited, rate

    def _validated(self, shown: Weights) -> float | None:
        """The score of the weights that are ``shown``; the network then moves on with its own."""
        if (validation := self.part.validation) is None:
            return None
        moving = {} if self._shown.moving else {name: of.clone() for name, of in self.network.state_dict().items()}
        if moving:
            self.network.load_state_dict(shown)
        score = validation.score(self.network)
        if isinstance(self._sampler, DomainWeighted):
            scores = validation.by_domain(self.network)
            self._sampler.move(np.array([1 - scores.get(name, 1.0) for name in self.part.rows.domain_names]))
        if moving:
            self.network.load_state_dict(moving)
        return score

    def _step(self, batch: Batch, rate: float) -> float:
        self._optimizer.zero_grad()
        rho = self.part.setup.training.sam_rho
        value = self._sharp(batch, rho) if rho else self._gradient(batch)
        self._optimizer.step(rate)
        self._shown.after_step()
        if isinstance(self.loss, PairLoss):
            self.loss.after_step()
        return float(value)

    def _gradient(self, batch: Batch) -> Tensor:
        """The loss of a batch; its gradients are added to those of the weights."""
        embeddings = self._map(batch.features, self._dropout)
        value = torch.stack([self._lost(embeddings[:, :size], batch) for size in self._sizes]).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach()

    def _lost(self, embeddings: Tensor, batch: Batch) -> Tensor:
        match self.loss:
            case Objective():
                lost: Tensor = self.loss(embeddings, batch.records)
            case PairLoss():
                lost = self.loss(embeddings, batch.labels, batch.records)
            case _:
                lost = self.loss(embeddings, batch.labels)
        return lost

    def _sharp(self, batch: Batch, rho: float) -> Tensor:
        draws = [
            self._dropout,
            *(module.generator for module in self.loss.modules() if isinstance(module, RandomState)),
        ]
        states = [generator.get_state() for generator in draws]

        def value() -> Tensor:
            for generator, state in zip(draws, states, strict=True):
                generator.set_state(state)
            return self._gradient(batch)

        weights = [*self.network.parameters(), *self.loss.parameters()]
        dense = [weight for weight in weights if not any(weight is of.weight for of in self._optimizer.tables)]
        memory = [*self.network.buffers(), *self.loss.buffers()]
        return sharp_gradient(value, self._optimizer.zero_grad, dense, memory, rho)

    def _prepared(self, source: InMemory) -> InMemory:
        """All rows as ``inputs`` makes them, float32."""
        with torch.inference_mode():
            blocks = [self.network.inputs(block).numpy() for block in by_blocks(torch.from_numpy(source.features))]
        return InMemory(np.concatenate(blocks))

    def _repeat_domain_weights(self, number: int) -> dict[str, float] | None:
        """The shares of the domains in epoch ``number``, where the sampling has them."""
        if not isinstance(self._sampler, DomainWeighted):
            return None
        names = self.part.rows.domain_names
        if number < len(self.part.domain_weights) and (given := self.part.domain_weights[number]) is not None:
            self._sampler.shares = np.array([given[name] for name in names])
        return dict(zip(names, self._sampler.shares.tolist(), strict=True))

    def _with_found(self, entry: EpochLog) -> EpochLog:
        """``entry`` with what a loss on pairs found in the epoch."""
        if not isinstance(self.loss, PairLoss):
            return entry
        found = self.loss.take_found()
        pairs = found.chosen / self._sampler.steps if found.chosen else None
        return replace(entry, pairs=pairs, zero_share=found.zero_share, hardness=found.hardness)

    def _finite(self, loss: float, epoch: int) -> float:
        setup = self.part.setup
        if not math.isfinite(loss):
            scale = getattr(setup.loss, "scale", None)
            or_scale = "" if scale is None else f" or loss.scale ({scale})"
            raise PermafrostError(
                f"the loss became {loss} in epoch {epoch}. Lower optimizer.lr ({setup.optimizer.lr:g}){or_scale}"
                f", or lengthen the warm-up ({setup.optimizer.warmup_epochs:g} epochs)."
            )
        return loss


def _loss(part: Part, network: HeadNetwork, drawn: torch.Generator) -> Loss | Objective:
    """What trains the network, what is random drawn from ``drawn``; of attributes, with the loss on labels in it."""
    setup, labels = part.setup, part.rows.labels
    dim, loss = setup.head.dim or network.dim, None
    if setup.loss is not None:
        loss = setup.loss.build(dim, torch.from_numpy(np.bincount(labels)), drawn)
    if setup.lessons is not None:
        assert isinstance(setup.head, MultilabelHeadConfig)
        assert part.records is not None
        assert not isinstance(loss, PairLoss)  # refused with the settings
        return build_objective(setup.head, dim, part.records, setup.lessons, loss, torch.from_numpy(labels), drawn)
    assert loss is not None
    return loss


def member_seed(seed: int, member: int) -> int:
    """The seed of the dropout of a soup's ``member``, from 1."""
    return int(np.random.SeedSequence((seed, member)).generate_state(1, np.uint64)[0] >> np.uint64(1))
