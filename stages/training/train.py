"""Train a head on stored features: no image is opened, no backbone is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cache import Features, Identity
from cache.errors import RecordsError
from stages.records import Records
from stages.training.averaging import between, mean_of
from stages.training.checkpoint import Checkpoint
from stages.training.classes import HOLDABLE, TELLING, held_out, held_rows
from stages.training.closed_form import ClosedFormConfig
from stages.training.config import TrainingConfig
from stages.training.experts import split
from stages.training.head import EpochLog, Head, HeadConfig, TrainingSummary
from stages.training.heads.experts import Experts
from stages.training.heads.network import HeadNetwork
from stages.training.initialization import start_network
from stages.training.loop import OnEpoch, Part, Trained, best_epoch, train
from stages.training.loss import LossConfig
from stages.training.multilabel import MultilabelHeadConfig, PosteriorHeadConfig
from stages.training.multilabel.fit_posterior import fit_posterior
from stages.training.optimizer import OptimizerConfig
from stages.training.rows import LabelledRows
from stages.training.sampling import DomainWeightsConfig
from stages.training.setup import Setup, Validation, prepare
from stages.training.validation import ValidationSet, validation_set


def head_identity(
    features: Features,
    records: Records,
    head: HeadConfig,
    loss: LossConfig | None = None,
    *,
    start: ClosedFormConfig | None = None,
    optimizer: OptimizerConfig | None = None,
    training: TrainingConfig | None = None,
    validation: Validation | None = None,
    seed: int = 0,
) -> Identity:
    """The identity of the head that :func:`train_head` would train: whoever has such a head need not train it."""
    return prepare(
        features,
        records,
        head,
        loss,
        start=start,
        optimizer=optimizer,
        training=training,
        validation=validation,
        seed=seed,
    ).identity()


def train_head(
    features: Features,
    records: Records,
    head: HeadConfig,
    loss: LossConfig | None = None,
    *,
    start: ClosedFormConfig | None = None,
    optimizer: OptimizerConfig | None = None,
    training: TrainingConfig | None = None,
    validation: Validation | None = None,
    seed: int = 0,
    on_epoch: OnEpoch | None = None,
    checkpoint: Path | None = None,
) -> Head:
    """Train ``head`` with ``loss`` on the features of ``records``; the same bits for the same seed and thread count.

    The epoch is chosen by mMP@5 on ``validation`` (queries, gallery): the weights of the best one are kept, the first
    on a tie. Without, a share of the training classes is held out and searched leave-one-out, which only chooses the
    epoch: a second head is trained on all classes, on the same schedule, up to that epoch. (Against keeping the first
    head that gave 0.008 more test mMP@5 on four image sets of 40 to 945 classes, and 0.12 more on one of five.)

    A closed form needs no loss: it is fitted to all rows. With a loss it is where training starts, and so is
    ``start`` of a linear head; prototypes then start at the class means.

    Args:
        features: the store that holds the features of ``records``.
        records: the training rows; every one has a label.
        head: what is trained.
        loss: what trains it; its prototypes are dropped afterwards.
        start: a closed form whose map the head starts at.
        optimizer: by default ``OptimizerConfig()``.
        training: by default ``TrainingConfig()``.
        validation: query and gallery records, of other classes than ``records``; never the test split.
        seed: of the weights, the order of the rows, dropout, and the classes held out.
        on_epoch: hears each epoch as it ends.
        checkpoint: a file that is written after every epoch: a training that was killed goes on from it, and ends
            with the bits of the one that was not. Delete it once the head is saved.

    Raises:
        ValueError: settings that do not go together, or a closed form that cannot be had from these rows.
        RecordsError: a row without a label, or fewer than two classes.
        MissingRowsError: an image that was never extracted. (One whose extraction failed is left out and counted.)
        NothingToScoreError: no validation query has anything to find.
        PermafrostError: the loss became NaN or infinite.
    """
    setup = prepare(
        features,
        records,
        head,
        loss,
        start=start,
        optimizer=optimizer,
        training=training,
        validation=validation,
        seed=seed,
    )
    identity = setup.identity()
    chosen = _chosen(setup, on_epoch or (lambda _: None), Checkpoint(checkpoint, identity.fingerprint))
    summary = TrainingSummary(
        rows=len(setup.records),
        classes=len(set(setup.records.classes)),
        failed=setup.failed,
        small=setup.small,
        epoch=chosen.epoch,
        chosen_by=chosen.by,
        anchor=chosen.anchor,
        threads=torch.get_num_threads(),
        left_out=[] if setup.lessons is None else [*setup.lessons.left_out],
    )
    return Head(head, identity, chosen.network, summary, tuple(chosen.log))


@dataclass(frozen=True, eq=False)
class _Chosen:
    network: HeadNetwork
    epoch: int
    by: str
    log: Sequence[EpochLog]
    anchor: float | None = None

    @property
    def kept(self) -> str:
        """The epoch, and the share of it where it is mixed with the start."""
        share = "" if self.anchor is None else f" x {self.anchor:g}"
        return f"epoch {self.epoch}{share}" if self.epoch else "closed form"


def _fitted(setup: Setup) -> _Chosen:
    """A closed form alone."""
    part = _part(setup, setup.records, 0, None)
    assert part.fitted is not None
    network = start_network(setup.head, part.fitted, part.rows, part.rows.blocks, torch.Generator())
    return _Chosen(network, 0, "a closed form: nothing is trained", ())


def _posterior(setup: Setup) -> _Chosen:
    """A closed form on attributes."""
    assert isinstance(setup.head, PosteriorHeadConfig)
    assert setup.lessons is not None
    assert setup.lessons.attributes is not None
    rows, attributes = LabelledRows.of(setup.features, setup.records, mapped=False), setup.lessons.attributes
    targets, labels = attributes.targets(setup.records), torch.from_numpy(rows.labels)
    fitted = fit_posterior(setup.head, rows.first_views(), attributes, targets, labels, rows.blocks)
    return _Chosen(fitted.network, 0, f"a closed form: {fitted.said}", ())


def _chosen(setup: Setup, tell: OnEpoch, checkpoint: Checkpoint) -> _Chosen:
    """One head, or one for each domain."""
    if not setup.training.experts:
        return _single(setup, tell, checkpoint)
    found = split(setup)
    if isinstance(found, str):
        chosen = _single(setup, tell, checkpoint)
        return replace(chosen, by=f"{chosen.by} (no experts: {found})")
    experts = {name: _expert(name, part, tell, checkpoint) for name, part in found.parts.items()}
    log = [replace(epoch, expert=name) for name, expert in experts.items() for epoch in expert.log]
    kept = ", ".join(f"{name} {expert.kept}" for name, expert in experts.items())
    by = f"an expert for each domain ({kept}); the gate sent {found.astray:.2%} of held-out images astray"
    network = Experts(found.gate, [expert.network for expert in experts.values()])
    return _Chosen(network, max(expert.epoch for expert in experts.values()), by, log)


def _expert(name: str, part: Setup, tell: OnEpoch, checkpoint: Checkpoint) -> _Chosen:
    return _single(part, lambda epoch: tell(replace(epoch, expert=name)), checkpoint.within(name))


def _single(setup: Setup, tell: OnEpoch, checkpoint: Checkpoint) -> _Chosen:
    """One head: train it, and choose what is kept by the validation score."""
    if not setup.trained:
        return _posterior(setup) if isinstance(setup.head, PosteriorHeadConfig) else _fitted(setup)
    epochs = setup.training.epochs
    if setup.validation is not None:
        searched = validation_set(setup.features, *setup.validation)
        trained = _soup(_part(setup, setup.records, epochs, searched), tell, checkpoint)
        share = _best_share(setup, trained, searched)
        _mix(trained, share)
        kept = best_epoch([epoch for epoch in trained.log if epoch.member == 1])
        return _Chosen(trained.network, kept, "mMP@5 on the validation records", trained.log, share)
    held, what = _held(setup)
    if setup.training.anchor and setup.training.holdout:
        few = 0 if held is None else len({*setup.records.take(np.flatnonzero(held)).classes})
        if few < TELLING:
            by = f"the start: {few} classes held out cannot tell whether training helps, which takes {TELLING}"
            return replace(_fitted(setup), by=by)
    if held is None:
        return _last(setup, tell, checkpoint)
    apart, rest = setup.records.take(np.flatnonzero(held)), setup.records.take(np.flatnonzero(~held))
    searched = validation_set(setup.features, apart, apart)
    first = train(replace(_part(setup, rest, epochs, searched), phase="choose"), tell, checkpoint)
    kept, share = best_epoch(first.log), _best_share(setup, first, searched)
    if isinstance(setup.head, MultilabelHeadConfig) and not setup.head.refit:
        return _Chosen(
            first.network, kept, f"mMP@5 on {len(apart):,} held-out images, which it did not learn", first.log
        )
    weights = [epoch.domain_weights for epoch in first.log]
    trained = _soup(replace(_part(setup, setup.records, kept, None), domain_weights=weights), tell, checkpoint)
    _mix(trained, share)
    count = len(apart) if what == "images" else len(set(apart.classes))
    by = f"mMP@5 on {count:,} held-out {what}; then all were trained on"
    return _Chosen(trained.network, kept, by, [*first.log, *trained.log], share)


def _held(setup: Setup) -> tuple[npt.NDArray[np.bool_] | None, str]:
    """The rows (N,) that choose the epoch, None for none, and what they are: classes, or images of every class.

    Who learns attributes is to find more of what was learned; who learns to tell classes apart, classes never seen.
    """
    rng, share = np.random.default_rng((setup.seed, 1)), setup.training.holdout
    if setup.lessons is not None:
        return held_rows(setup.records.classes, share, rng), "images"
    return held_out(setup.records.classes, share, rng), "classes"


def _last(setup: Setup, tell: OnEpoch, checkpoint: Checkpoint) -> _Chosen:
    """Train with nothing to validate on: the last epoch is kept, and of a start and what became of it the start."""
    why = f"fewer than {HOLDABLE} classes have two images, too few to hold some out"
    if setup.lessons is not None:
        why = "no class has four images, too few to hold some out"
    why = "holdout is 0" if setup.training.holdout == 0 else why
    if isinstance(setup.training.sampling, DomainWeightsConfig):
        raise RecordsError(f"the weights of domains move by a validation score, and there is none: {why}")
    if setup.training.anchor:
        raise RecordsError(f"the anchor is chosen by a validation score, and there is none: {why}")
    trained = _soup(_part(setup, setup.records, setup.training.epochs, None), tell, checkpoint)
    return _Chosen(trained.network, setup.training.epochs, f"it is the last: {why}", trained.log)


def _part(setup: Setup, records: Records, epochs: int, validation: ValidationSet | None) -> Part:
    rows = LabelledRows.of(setup.features, records, mapped=setup.mapped)
    fitted = None
    if setup.start is not None:
        labels, domains = torch.from_numpy(rows.labels), torch.from_numpy(rows.domains)
        fitted = setup.start.fit(rows.first_views(), labels, domains, rows.blocks, setup.seed)
    return Part(setup, rows, fitted, epochs, "train", validation=validation, records=records)


def _soup(part: Part, tell: OnEpoch, checkpoint: Checkpoint) -> Trained:
    """As many heads from one start as the settings say, and their mean."""
    count = part.setup.training.soup
    members = [train(replace(part, member=member), tell, checkpoint) for member in range(1, count + 1)]
    first, *others = members
    if others:
        names = [name for name, _ in first.network.named_parameters()]
        first.network.load_state_dict(mean_of([member.network.state_dict() for member in members], names))
    return Trained(first.network, first.start, [epoch for member in members for epoch in member.log])


def _best_share(setup: Setup, trained: Trained, searched: ValidationSet) -> float | None:
    """The share of what was trained that scores best when mixed with the start, the smallest on a tie."""
    if not setup.training.anchor:
        return None
    weights = {name: tensor.clone() for name, tensor in trained.network.state_dict().items()}
    scores: dict[float, float] = {}
    for share in sorted(set(setup.training.anchor)):
        _mix(trained, share)
        scores[share] = searched.score(trained.network)
        trained.network.load_state_dict(weights)
    return max(scores, key=lambda share: scores[share])


def _mix(trained: Trained, share: float | None) -> None:
    """Bring the network to ``share`` of what it is and the rest of what it started at; None changes nothing."""
    if share is not None:
        names = [name for name, _ in trained.network.named_parameters()]
        trained.network.load_state_dict(between(trained.start, trained.network.state_dict(), share, names))
