"""The training loop: one head, an epoch at a time, which can be stopped and continued after any epoch."""

from __future__ import annotations

import io
import math
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cache import LocalStorage
from cache.errors import DivergedError
from stages.device import keep_freed_memory
from stages.training.head import EpochLog
from stages.training.heads.networks import HeadNetwork, LinearHead, in_blocks
from stages.training.losses.kernel import MarginSoftmax
from stages.training.losses.rules import RandomState
from stages.training.losses.shards import check_same
from stages.training.multilabel.kinds import MultilabelHeadConfig
from stages.training.multilabel.tasks import Objective, build_objective
from stages.training.pairs.loss import PairLoss
from stages.training.rows.labelled_rows import LabelledRows, gathered, prefetch
from stages.training.rows.sampling import DomainWeighted, build_sampler
from stages.training.rows.validation import ValidationSet
from stages.training.training_inputs import TrainingInputs
from stages.training.weights.initialization import start_network, start_prototypes
from stages.training.weights.optimizer import WeightAverage, Weights, sam_gradient
from stages.training.worker_threads import one_thread_each

State = dict[str, Any]
_UNREADABLE = (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError)


class Checkpoint:
    """The finished parts of a training, and the state of the current one.

    A part is the training of one network; a training can have several (with held-out classes, with all; members of a
    soup; experts). Without a path nothing is stored. A file of another head, or one that cannot be read, counts as
    none: the training then starts again and replaces the file.
    """

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self._path, self._fingerprint = path, fingerprint
        self._parts: dict[str, State] = {}
        if path is not None:
            with suppress(*_UNREADABLE):  # a checkpoint only saves time
                content = torch.load(path, weights_only=True)
                self._parts = dict(content["parts"]) if content["fingerprint"] == fingerprint else {}

    def part(self, name: str) -> State | None:
        """The last state of the part ``name``; None where there is none."""
        return self._parts.get(name)

    def keep(self, name: str, state: State) -> None:
        """Store the ``state`` of the part ``name``: tensors, numbers, strings, lists and dicts of them."""
        self._parts[name] = state
        if self._path is not None:
            content = io.BytesIO()
            torch.save({"fingerprint": self._fingerprint, "parts": self._parts}, content)
            LocalStorage(self._path.parent).put(self._path.name, content.getbuffer())


OnEpoch = Callable[[EpochLog], None]

_PREPARED_BYTES = 2**30  # up to here the steps before the map are applied once, and kept as float32 in memory


class Trained(NamedTuple):
    """A network with the weights that are kept, its weights at the start, and its log."""

    network: HeadNetwork
    start: Weights
    log: list[EpochLog]


class Batch(NamedTuple):
    """Features (B, D) after the steps before the map, labels (B,), and the numbers of the records (B,)."""

    features: Tensor
    labels: Tensor
    records: Tensor


@dataclass(eq=False)
class Training:
    """One head in training: on which rows, from which start, for how long. An epoch changes what is in :meth:`state`.

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
    phase: Literal["choose", "train"] = "train"
    member: int = 1
    validation: ValidationSet | None = None
    domain_weights: Sequence[dict[str, float] | None] = ()

    def __post_init__(self) -> None:
        keep_freed_memory()
        inputs, recipe, rows = self.inputs, self.inputs.recipe, self.rows
        self.log, self.best = list[EpochLog](), Weights()
        generator = torch.Generator().manual_seed(inputs.seed)  # one for every member of a soup: they share a start
        self.network = start_network(recipe.head, self.fitted, rows, rows.blocks, generator)
        self.loss = self._build_loss(generator)
        prototypes = None if isinstance(self.loss, Objective) else self.loss.prototypes
        if self.fitted is not None and prototypes is not None:
            start_prototypes(prototypes, self.network, rows, torch.from_numpy(rows.labels))
        self.start = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        # What is random so far is drawn on the CPU: a head has the same start on every device.
        self.network.to(inputs.device)
        self.loss.to(inputs.device)
        self._optimizer = recipe.optimizer.build(self.network.parameters(), self.loss)
        seed = np.random.SeedSequence((inputs.seed, self.member)).generate_state(1, np.uint64)[0] >> np.uint64(1)
        self.dropout = _generator_on(inputs.device, int(seed))
        self._prepared: npt.NDArray[np.generic] | None = None
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

    def run(self, on_epoch: OnEpoch, checkpoint: Checkpoint) -> Trained:
        """Train to the end, from where ``checkpoint`` is: the weights of the best epoch, or else of the last."""
        expert = "" if self.inputs.expert is None else f"{self.inputs.expert}/"
        name = f"{expert}{self.phase} {self.member}"
        if (saved := checkpoint.part(name)) is not None:
            self.restore(saved)
        while not self.finished:
            self.epoch()
            checkpoint.keep(name, self.state())
            on_epoch(self.log[-1])
        self.network.load_state_dict(self.best)
        return Trained(self.network.cpu(), self.start, self.log)

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return self._sampler.steps

    @property
    def finished(self) -> bool:
        """True after the last epoch, or once validation has not improved for as many epochs as the settings allow."""
        patience, done = self.inputs.training.patience, len(self.log)
        waited = patience and done and self.validation is not None and done - best_epoch(self.log) >= patience
        return done == self.epochs or bool(waited)

    def epoch(self) -> None:
        """Train for one epoch, validate, and log it."""
        started, number = time.perf_counter(), len(self.log)
        shares = self._repeat_domain_weights(number)
        on_all_threads = isinstance(self.loss, PairLoss) and not self.loss.uses_worker_threads
        total, visited, step = 0.0, 0, 0
        with nullcontext() if on_all_threads else one_thread_each():
            for step, batch in self.batches(number):
                total += self.learn(batch, step) * len(batch.labels)
                visited += len(batch.labels)
        if self.inputs.group is not None:
            check_same(self.network, self.inputs.group)
        weights = self._average.after_epoch()
        score = self._validated(weights)
        rate = self.inputs.recipe.optimizer.learning_rate(step, self.steps, self.inputs.training.epochs)
        entry = EpochLog(self.phase, number + 1, total / visited, rate, score, time.perf_counter() - started)
        entry = replace(entry, member=self.member, domain_weights=shares, expert=self.inputs.expert)
        if isinstance(self.loss, PairLoss):
            taken = self.loss.take_statistics()
            pairs = taken.chosen / self.steps if taken.chosen else None
            entry = replace(entry, pairs=pairs, zero_share=taken.zero_share, hardness=taken.hardness)
        self.log.append(entry)
        if score is None or self.inputs.training.keep == "last" or best_epoch(self.log) == number + 1:
            self.best = weights

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` takes; of a finished run no more than its outcome."""
        outcome = {"best": self.best, "log": [asdict(epoch) for epoch in self.log]}
        if self.finished:
            return outcome
        weights = self._sampler.weights.tolist() if isinstance(self._sampler, DomainWeighted) else None
        states = {name: part.state_dict() for name, part in self._parts.items()}
        return outcome | states | {"dropout": self.dropout.get_state(), "domain_weights": weights}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken."""
        self.best, self.log = state["best"], [EpochLog(**epoch) for epoch in state["log"]]
        if self.finished:
            return
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        self.dropout.set_state(state["dropout"])
        if isinstance(self._sampler, DomainWeighted):
            self._sampler.move_to(np.array(state["domain_weights"]))

    def batches(self, number: int) -> Iterator[tuple[int, Batch]]:
        """The batches of epoch ``number``, from 0, each with the number of its step in the whole training."""
        rows, inputs, device = self.rows, self.inputs, self.inputs.device

        def prepare(features: Tensor) -> Tensor:
            prepared: Tensor = self.network.inputs(features.to(device))
            return prepared

        if rows.vectors is not None and self._prepared is None and rows.vectors.size * 4 <= _PREPARED_BYTES:
            self._prepared = in_blocks(lambda block: prepare(block).cpu(), torch.from_numpy(rows.vectors)).numpy()
        rng = np.random.default_rng((inputs.seed, self.member, number))
        places = np.arange(len(rows)) * rows.views
        if inputs.training.views == "random" and rows.views > 1:
            places += rng.integers(rows.views, size=len(rows))
        order = self._sampler.epoch(rng)
        take = rows.take if self._prepared is None else partial(gathered, self._prepared)
        parts = prefetch(take, rows.labels, order, places)
        for step, (features, labels, records) in enumerate(parts, number * self.steps):
            ready = features.to(device) if self._prepared is not None else prepare(features)
            yield step, Batch(ready, labels.to(device), records.to(device))

    def learn(self, batch: Batch, step: int) -> float:
        """Make step number ``step`` on ``batch``; its loss. Raises DivergedError where that is no number."""
        optimizer, epochs, steps = self.inputs.recipe.optimizer, self.inputs.training.epochs, self.steps
        self.loss.at(step / max(1, steps * epochs - 1))
        self._optimizer.zero_grad()
        rho = self.inputs.training.sam_rho
        loss = float(self._sharp_gradient(batch, rho) if rho else self._gradient(batch))
        self._optimizer.step(optimizer.learning_rate(step, steps, epochs))
        self._average.after_step()
        if isinstance(self.loss, PairLoss):
            self.loss.after_step()
        if not math.isfinite(loss):
            scale = getattr(self.inputs.recipe.loss, "scale", None)
            or_scale = "" if scale is None else f" or loss.scale ({scale})"
            raise DivergedError(
                f"the loss became {loss} in epoch {step // steps + 1}. Lower optimizer.lr ({optimizer.lr:g}){or_scale}"
                f", or lengthen the warm-up ({optimizer.warmup_epochs:g} epochs)."
            )
        return loss

    def _validated(self, weights: Weights) -> float | None:
        """The score of the network with ``weights``; it then has its own again."""
        if (validation := self.validation) is None:
            return None
        own = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.network.load_state_dict(weights)
        score = validation.score(self._embed)
        if isinstance(self._sampler, DomainWeighted):
            scores = validation.by_domain(self._embed)
            self._sampler.move(np.array([1 - scores.get(name, 1.0) for name in self.rows.domain_names]))
        self.network.load_state_dict(own)
        return score

    def _embed(self, features: Tensor) -> Tensor:
        """Embeddings (n, E) of ``features`` (n, D), both on the CPU."""
        embeddings: Tensor = self.network(features.to(self.inputs.device))
        return embeddings.cpu()

    def _gradient(self, batch: Batch) -> Tensor:
        """The loss of a batch; its gradients are added to those of the weights."""
        embeddings = self.network.transform(batch.features, self.dropout)
        rest = [batch.records] if isinstance(self.loss, Objective) else [batch.labels]
        rest += [batch.records] if isinstance(self.loss, PairLoss) else []
        value = torch.stack([self.loss(embeddings[:, :size], *rest) for size in self._sizes]).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach()

    def _sharp_gradient(self, batch: Batch, rho: float) -> Tensor:
        states_of = (module for module in self.loss.modules() if isinstance(module, RandomState))
        generators = [self.dropout, *(state.generator for state in states_of)]
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
        names = self.rows.domain_names
        if number < len(self.domain_weights) and (given := self.domain_weights[number]) is not None:
            self._sampler.shares = np.array([given[name] for name in names])
        return dict(zip(names, self._sampler.shares.tolist(), strict=True))

    def _build_loss(self, generator: torch.Generator) -> MarginSoftmax | PairLoss | Objective:
        """What trains the network, initialized from ``generator``; for attributes, with the loss on labels in it."""
        recipe, rows, targets = self.inputs.recipe, self.rows, self.inputs.attribute_targets
        dim, loss, group = recipe.head.dim or self.network.dim, None, self.inputs.group
        if recipe.loss is not None:
            shared = {} if group is None else {"group": group}  # refused for a loss on pairs
            loss = recipe.loss.build(dim, torch.from_numpy(np.bincount(rows.labels)), generator, **shared)
        if targets is not None:
            assert isinstance(recipe.head, MultilabelHeadConfig)
            assert not isinstance(loss, PairLoss)  # refused with the settings
            labels = torch.from_numpy(rows.labels)
            return build_objective(recipe.head, targets, dim, rows.records, loss, labels, generator)
        assert loss is not None
        return loss


def best_epoch(log: Sequence[EpochLog]) -> int:
    """The number of the epoch of the highest validation score, the first on a tie."""
    return max(log, key=lambda epoch: epoch.validation_mmp5 or 0.0).epoch


def _generator_on(device: str, seed: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)
