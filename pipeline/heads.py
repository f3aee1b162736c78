"""The heads of a run: found as they were saved, or trained and saved."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from cache import Features, Identity
from cache.errors import ConfigError, DamagedStoreError, MissingRowsError
from cache.storage import has
from pipeline.config import HeadRun
from pipeline.dataset import Run
from pipeline.progress import Display, duration_text
from stages.records import Records
from stages.training import EpochLog, Head, epoch_events, head_identity
from stages.training.process_group import is_first
from stages.training.training_inputs import check_device

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

LEAST_VALIDATION_CLASSES = 5  # fewer cannot tell epochs apart: held-out training classes choose


def find_head(
    run: Run,
    wanted: HeadRun,
    backbone: str,
    features: Features,
    *,
    train: bool,
    tensorboard: bool,
    device: str,
    group: ProcessGroup | None = None,
) -> Head:
    """The head as it was saved; or, with ``train``, trained and saved. MissingRowsError where there is none.

    The processes of a ``group`` train it together, and the first saves it.
    """
    arguments, display = training_arguments(run, wanted, features), run.display
    identity = head_identity(**arguments)
    key = head_key(wanted.name, features, identity)
    storage = run.storage.below(key)
    title = f"train {wanted.name} on {backbone}"
    if has(storage, "head.safetensors"):
        try:
            head = Head.load(storage, identity)
        except DamagedStoreError as error:
            if not train:
                raise
            display.warn(f"{title}: again, as {error}")
        else:
            if train:
                display.say(f"{title}: trained before, on the same features and settings")
            return head
    if not train:
        raise MissingRowsError(
            f"{wanted.name} is not trained on {backbone} as the run file and the data are now. "
            "Run `permafrost train-heads` with this run file."
        )
    from stages.training import train_head  # which imports PyTorch

    checkpoint = run.scratch / f"{key}.checkpoint"
    if checkpoint.exists():
        display.say(f"{title}: going on after the last epoch of the run that was stopped")
    events = run.artifacts / key.replace("heads", "tensorboard", 1) if tensorboard else None
    device, training = device_for(wanted, device, display), wanted.recipe.training
    few = len(run.records.split("validation_query").distinct_classes())
    if few and arguments["validation"] is None:
        display.say(
            f"{title}: {few} of the classes validate and choosing takes {LEAST_VALIDATION_CLASSES}, so held-out "
            "training classes choose the weights; more classes help, or a larger validation_share in [dataset]"
        )
    if wanted.recipe.closed_form is not None or not wanted.recipe.is_trained:
        display.say(f"{title}: computing a closed form of {len(arguments['records']):,} images")
    started = time.monotonic()
    with display.bar(title, "epochs") as update, epoch_events(events) as write:

        def report(epoch: EpochLog) -> None:
            update(epoch.epoch, training.epochs, _epoch_text(epoch, training.soup))
            write(epoch)

        head = train_head(**arguments, on_epoch=report, checkpoint=checkpoint, device=device, group=group)
    if head.summary.left_out:
        display.warn(
            f"{wanted.name} on {backbone}: trained without {', '.join(head.summary.left_out)}, which cannot be learned"
        )
    display.say(f"{title}: {summary_text(head)}; {duration_text(time.monotonic() - started)}")
    if is_first():
        head.save(storage)
        checkpoint.unlink(missing_ok=True)
    if group is not None:
        group.barrier().wait()
    return head


def _epoch_text(epoch: EpochLog, soup: int) -> str:
    score = "" if epoch.validation_mmp5 is None else f", validation mmp@5 {epoch.validation_mmp5:.3f}"
    mined = "" if epoch.zero_share is None else f", {epoch.zero_share:.0%} of the pairs without loss"
    member = f", head {epoch.member} of {soup}" if soup > 1 else ""
    expert = "" if epoch.expert is None else f", expert of {epoch.expert or 'no domain'}"
    return f"loss {epoch.loss:.3f}{score}{mined}{member}{expert}"


def summary_text(head: Head) -> str:
    """What ``head`` was trained on, and which of its epochs was chosen how."""
    summary, anchor = head.summary, ""
    epochs = f"epoch {summary.epoch} kept: " if head.log else ""
    if summary.anchor == 0:
        anchor = "; no share of the trained weights scores above the closed form it began at, which is kept"
    elif summary.anchor is not None:
        shares = f"{summary.anchor:.0%} trained weights and {1 - summary.anchor:.0%} closed form"
        anchor = f"; {shares}, the mixture that scores highest"
    return f"{summary.rows:,} images of {summary.classes:,} classes; {epochs}{summary.chosen_by}{anchor}"


def head_key(name: str, features: Features, identity: Identity) -> str:
    """Where, in the artifacts, the head ``name`` of that ``identity`` is saved."""
    return f"heads/{features.name}/{name}-{identity.short}"


def device_for(wanted: HeadRun, device: str, display: Display) -> str:
    """Where ``wanted`` is trained: on ``device``, or on the CPU where that alone computes its steps."""
    import torch

    try:
        torch.device(device)
        check_device(wanted.recipe, device)
    except RuntimeError as error:
        raise ConfigError(f"--device must be cpu, cuda or cuda:NUMBER, got {device!r}") from error
    except ValueError:
        display.say(f"train {wanted.name}: on the CPU, where alone its steps are computed")
        return "cpu"
    return device


def training_arguments(run: Run, wanted: HeadRun, features: Features, train: Records | None = None) -> dict[str, Any]:
    """The arguments of ``head_identity`` and ``train_head``: everything that a head follows from.

    It is trained on ``train``, by default the records of that role.
    """
    return {
        "features": features,
        "records": run.records.split("train") if train is None else train,
        "recipe": wanted.recipe,
        "validation": validation_records(features, run.records),
        "seed": run.config.seed,
    }


def validation_records(features: Features, records: Records) -> tuple[Records, Records] | None:
    """Query and gallery to choose the epoch on, or None where they are too few classes to choose by."""
    queries, gallery = records.split("validation_query"), records.split("validation_gallery")
    queries, gallery = (part.take(part.rows_in(features)) for part in (queries, gallery))
    searched, keys = Counter(gallery.classes), set(gallery.keys)
    pairs = zip(queries.keys, queries.classes, strict=True)
    answerable = {name for key, name in pairs if searched[name] > (key in keys)}
    return (queries, gallery) if len(answerable) >= LEAST_VALIDATION_CLASSES else None
