"""Train a head on stored features: no image is opened, no backbone is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed

from cache import Features
from cache.errors import RecordsError
from stages.device import check_device as check_available
from stages.records import Records
from stages.training.experts import split
from stages.training.head import EpochLog, Head, TrainingSummary
from stages.training.heads.networks import Experts, HeadNetwork, LinearHead
from stages.training.loop import Checkpoint, OnEpoch, Trained, Training, best_epoch
from stages.training.multilabel.fit_posterior import fit_posterior
from stages.training.multilabel.kinds import MultilabelHeadConfig, PosteriorHeadConfig
from stages.training.recipe import HeadConfig, HeadRecipe, LossConfig, as_recipe
from stages.training.rows.labelled_rows import LabelledRows, numbered
from stages.training.rows.sampling import DomainWeightsConfig
from stages.training.rows.validation import HOLDABLE, TELLING, ValidationSet, held_out, held_rows, validation_set
from stages.training.text.fit import fit_text
from stages.training.text.kinds import TextHeadConfig
from stages.training.text.sentences import sentences_of
from stages.training.training_inputs import TrainingInputs, Validation, check_device, check_group, prepare
from stages.training.weights.initialization import start_network
from stages.training.weights.optimizer import between, mean_of
from stages.training.worker_threads import threads_for


def train_head(
    features: Features,
    records: Records,
    recipe: HeadRecipe | HeadConfig,
    loss: LossConfig | None = None,
    *,
    validation: Validation | None = None,
    seed: int = 0,
    on_epoch: OnEpoch | None = None,
    checkpoint: Path | None = None,
    device: torch.device | str = "cpu",
    group: distributed.ProcessGroup | None = None,
) -> Head:
    """Train a head by ``recipe`` on the features of ``records``; the same bits for the same seed and thread count.

    The epoch is chosen by mMP@5 on ``validation`` (queries, gallery): the weights of the best one are kept, the first
    on a tie. Without, a share of the training classes is held out and searched leave-one-out, which only chooses the
    epoch: a second head is trained on all classes, on the same schedule, up to that epoch. (Against keeping the first
    head that gave 0.008 more test mMP@5 on four image sets of 40 to 945 classes, and 0.12 more on one of five.)
    With ``training.keep`` = "last" nothing is chosen.

    A closed form needs no loss: it is fitted to all rows. With a loss it is where training starts, and so is
    ``start`` of a linear head; prototypes then start at the class means.

    Args:
        features: the store that holds the features of ``records``.
        records: the training rows; every one has a label.
        recipe: what is trained, and how; a head alone stands for ``HeadRecipe(head, loss)``.
        loss: beside a head alone, the loss that trains it.
        validation: query and gallery records, of other classes than ``records``; never the test split.
        seed: of the weights, the order of the rows, dropout, and the classes held out.
        on_epoch: called with the log of each epoch as it ends.
        checkpoint: a file that is written after every epoch: a training that was killed goes on from it, and ends
            with the bits of the one that was not. Delete it once the head is saved.
        device: what the steps are computed on: ``cpu``, or ``cuda`` for margin losses over tens of thousands of
            classes. It is recorded in the summary and is not part of the identity, although the weights of two devices
            differ: each rounds in its own way, and has its own random numbers for dropout.
        group: of processes that share out the classes of a margin loss, which are too many for one; all of them call
            this with the same arguments and get the same head, that of one process but for rounding. It is recorded
            and no part of the identity. There are no checkpoints.

    Raises:
        ValueError: settings that do not go together, a closed form that cannot be had from these rows, or a device
            that the loss does not train on.
        RecordsError: a row without a label, or fewer than two classes.
        MissingRowsError: an image that was never extracted. (One whose extraction failed is left out and counted.)
        NothingToScoreError: no validation query has anything to find.
        DivergedError: the loss became NaN or infinite.

    >>> import tempfile
    >>> from stages.training import ArcFaceConfig, LinearHeadConfig
    >>> from tests.toys.training import classes_of, toy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     features, records = toy(folder, classes_of(6, 4))
    ...     head = train_head(features, records, LinearHeadConfig(dim=4), ArcFaceConfig(margin_rad=0.5), seed=0)
    ...     head(features.read(records.digests)).shape
    (24, 4)
    """
    check_available(str(device))
    inputs = prepare(features, records, as_recipe(recipe, loss), validation=validation, seed=seed)
    identity, device = inputs.identity(), torch.device(device)
    check_device(inputs.recipe, str(device))
    if group is not None:
        check_group(inputs.recipe)
        checkpoint = None  # of one process it would have a part of the classes
    saved = Checkpoint(checkpoint, f"{identity.fingerprint} {device.type}")
    with threads_for(len(inputs.records) * inputs.features.views * inputs.features.dim):
        selected = _select(replace(inputs, device=str(device), group=group), on_epoch or (lambda _: None), saved)
    summary = TrainingSummary(
        rows=len(inputs.records),
        classes=len(set(inputs.records.classes)),
        failed=inputs.failed,
        small=inputs.small,
        epoch=selected.epoch,
        chosen_by=selected.reason,
        anchor=selected.anchor,
        threads=torch.get_num_threads(),
        device=device.type,
        processes=1 if group is None else distributed.get_world_size(group),
        left_out=[] if inputs.attribute_targets is None else [*inputs.attribute_targets.left_out],
    )
    return Head.of(inputs.recipe.head, identity, selected.network, summary, selected.log)


@dataclass(frozen=True, eq=False)
class Selection:
    """The network that is kept: the weights of which epoch, why, and what share of them beside the start's."""

    network: HeadNetwork
    epoch: int
    reason: str
    log: Sequence[EpochLog]
    anchor: float | None = None

    def __str__(self) -> str:
        share = "" if self.anchor is None else f" x {self.anchor:g}"
        return f"epoch {self.epoch}{share}" if self.epoch else "closed form"


def _select(inputs: TrainingInputs, on_epoch: OnEpoch, checkpoint: Checkpoint) -> Selection:
    """One head, or one for each domain."""
    if not inputs.training.experts:
        return _select_one(inputs, on_epoch, checkpoint)
    domains = split(inputs)
    if isinstance(domains, str):
        selected = _select_one(inputs, on_epoch, checkpoint)
        return replace(selected, reason=f"{selected.reason} (no experts: {domains})")
    experts = [_select_one(part, on_epoch, checkpoint) for part in domains.parts]
    log = [epoch for expert in experts for epoch in expert.log]
    listed = ", ".join(f"{part.expert} {expert}" for part, expert in zip(domains.parts, experts, strict=True))
    reason = f"an expert for each domain ({listed}); the gate misrouted {domains.misrouted:.2%} of held-out images"
    network = Experts(domains.gate, [expert.network for expert in experts])
    return Selection(network, max(expert.epoch for expert in experts), reason, log)


def _select_one(inputs: TrainingInputs, on_epoch: OnEpoch, checkpoint: Checkpoint) -> Selection:
    """One head: train it, and select the weights that are kept by the validation score."""
    training = inputs.training
    train = partial(_train, inputs, on_epoch, checkpoint)
    if not inputs.recipe.is_trained:
        return _closed_form(inputs)
    if inputs.validation is not None:
        searched = validation_set(inputs.features, *inputs.validation)
        trained = train(inputs.records, validation=searched, members=training.soup)
        share = _best_share(inputs, trained, searched)
        _mix(trained, share)
        if training.keep == "last":
            return Selection(trained.network, training.epochs, "it is the last: keep is last", trained.log)
        best = best_epoch([epoch for epoch in trained.log if epoch.member == 1])
        return Selection(trained.network, best, "mMP@5 on the validation records", trained.log, share)
    held, unit = _held(inputs)
    if training.anchor and training.holdout:
        few = 0 if held is None else len({*inputs.records.take(np.flatnonzero(held)).classes})
        if few < TELLING:
            reason = f"the start: {few} classes held out cannot show whether training helps, which takes {TELLING}"
            return replace(_closed_form(inputs), reason=reason)
    if held is None:
        why = _why_last(inputs)
        trained = train(inputs.records, members=training.soup)
        return Selection(trained.network, training.epochs, f"it is the last: {why}", trained.log)
    held_records = inputs.records.take(np.flatnonzero(held))
    searched = validation_set(inputs.features, held_records, held_records)
    first = train(inputs.records.take(np.flatnonzero(~held)), validation=searched, phase="choose")
    best, share = best_epoch(first.log), _best_share(inputs, first, searched)
    if isinstance(inputs.recipe.head, MultilabelHeadConfig) and not inputs.recipe.head.refit:
        reason = f"mMP@5 on {len(held_records):,} held-out images, which it did not learn"
        return Selection(first.network, best, reason, first.log)
    weights = [epoch.domain_weights for epoch in first.log]
    trained = train(inputs.records, epochs=best, domain_weights=weights, members=training.soup)
    _mix(trained, share)
    count = len(held_records) if unit == "images" else len(set(held_records.classes))
    reason = f"mMP@5 on {count:,} held-out {unit}; then all were trained on"
    return Selection(trained.network, best, reason, [*first.log, *trained.log], share)


def _train(
    inputs: TrainingInputs,
    on_epoch: OnEpoch,
    checkpoint: Checkpoint,
    records: Records,
    *,
    epochs: int | None = None,
    members: int = 1,
    **how: Any,
) -> Trained:
    """The mean of so many ``members`` from one start, each trained on ``records`` as :class:`Training` says."""
    rows, fitted = _start(inputs, records)
    epochs = inputs.training.epochs if epochs is None else epochs
    soup = [
        Training(inputs, rows, fitted, epochs, member=member, **how).run(on_epoch, checkpoint)
        for member in range(1, members + 1)
    ]
    network, start, _ = soup[0]
    if members > 1:
        names = [name for name, _ in network.named_parameters()]
        network.load_state_dict(mean_of([member.network.state_dict() for member in soup], names))
    return Trained(network, start, [epoch for member in soup for epoch in member.log])


def _start(inputs: TrainingInputs, records: Records) -> tuple[LabelledRows, LinearHead | None]:
    """The rows of ``records``, and the closed form of them that training starts at."""
    rows = LabelledRows.of(inputs.features, records, mapped=inputs.mapped)
    if inputs.closed_form is None:
        return rows, None
    labels, domains = torch.from_numpy(numbered(records.labels)[0]), torch.from_numpy(rows.domains)
    return rows, inputs.closed_form.fit(rows.first_views(), labels, domains, rows.blocks, inputs.seed)


def _closed_form(inputs: TrainingInputs) -> Selection:
    """What is computed of all rows: a linear map, or what a head learns of attributes or of sentences."""
    head, records = inputs.recipe.head, inputs.records
    rows, start = _start(inputs, records)
    if isinstance(head, TextHeadConfig):
        sentences = sentences_of(records, head.columns)
        text, summary = fit_text(head, rows.first_views(), sentences, rows.blocks, inputs.seed)
        return Selection(text, 0, f"a closed form: {summary}", ())
    if isinstance(head, PosteriorHeadConfig):
        assert inputs.attribute_targets is not None
        assert inputs.attribute_targets.attributes is not None
        attributes, labels = inputs.attribute_targets.attributes, torch.from_numpy(rows.labels)
        targets = attributes.targets(records)
        posterior, summary = fit_posterior(head, rows.first_views(), attributes, targets, labels, rows.blocks)
        return Selection(posterior, 0, f"a closed form: {summary}", ())
    network = start_network(head, start, rows, rows.blocks, torch.Generator())
    return Selection(network, 0, "a closed form: nothing is trained", ())


def _held(inputs: TrainingInputs) -> tuple[npt.NDArray[np.bool_] | None, str]:
    """The rows (N,) that choose the epoch, None for none, and their unit: classes, or images of every class.

    A head that learns attributes is to find more of what it learned; one that learns to separate classes, new classes.
    """
    rng = np.random.default_rng((inputs.seed, 1))
    share = 0.0 if inputs.training.keep == "last" else inputs.training.holdout
    if inputs.attribute_targets is not None:
        return held_rows(inputs.records.classes, share, rng), "images"
    return held_out(inputs.records.labels, inputs.records.domains, share, rng), "classes"


def _why_last(inputs: TrainingInputs) -> str:
    """Why nothing is held out. Raises RecordsError where the settings need a validation score."""
    why = f"fewer than {HOLDABLE} classes have two images, too few to hold some out"
    if inputs.attribute_targets is not None:
        why = "no class has four images, too few to hold some out"
    why = "holdout is 0" if inputs.training.holdout == 0 else why
    why = "keep is last" if inputs.training.keep == "last" else why
    if isinstance(inputs.training.sampling, DomainWeightsConfig):
        raise RecordsError(f"the weights of domains move by a validation score, and there is none: {why}")
    if inputs.training.anchor:
        raise RecordsError(f"the anchor is chosen by a validation score, and there is none: {why}")
    return why


def _best_share(inputs: TrainingInputs, trained: Trained, searched: ValidationSet) -> float | None:
    """The share of the trained weights that scores best when mixed with the start, the smallest on a tie."""
    if not inputs.training.anchor:
        return None
    weights = {name: tensor.clone() for name, tensor in trained.network.state_dict().items()}
    scores: dict[float, float] = {}
    for share in sorted(set(inputs.training.anchor)):
        _mix(trained, share)
        scores[share] = searched.score(trained.network)
        trained.network.load_state_dict(weights)
    return max(scores, key=lambda share: scores[share])


def _mix(trained: Trained, share: float | None) -> None:
    """Move the network to ``share`` of its weights and the rest of those of its start; None changes nothing."""
    if share is not None:
        names = [name for name, _ in trained.network.named_parameters()]
        trained.network.load_state_dict(between(trained.start, trained.network.state_dict(), share, names))
