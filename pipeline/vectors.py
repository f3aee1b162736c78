"""Stage 2 of a run file: the raw feature, and the heads, found as they were saved or trained, with what they embed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cache import Features, FeatureStore, Identity
from cache.errors import ConfigError, DamagedStoreError, MissingRowsError, RecordsError, SettingsError
from cache.storage import has
from pipeline.config import RAW, HeadRun
from pipeline.dataset import Run, feature_sets
from pipeline.progress import Display, duration_text
from stages.ranking import own_rows, unit_length, values_by_class
from stages.records import Records
from stages.retrieval.query_set import by_class
from stages.training import EpochLog, FusedFeatures, Head, embed, epoch_events, head_identity
from stages.training.embed import stored_embeddings
from stages.training.process_group import is_first
from stages.training.training_inputs import check_device

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

LEAST_VALIDATION_CLASSES = 5  # fewer cannot tell epochs apart: held-out training classes choose
_QUERIES = 2_000  # are enough to tell heads apart


class Vectors(NamedTuple):
    """Something to score: a raw feature, which nothing ``trained``, or the embeddings of a head of ``features``."""

    backbone: str
    head: str
    store: Features
    features: FeatureStore | FusedFeatures
    trained: Head | None = None


def find_vectors(
    run: Run,
    *,
    train: bool = False,
    tensorboard: bool = False,
    device: str = "cpu",
    only: str | None = None,
    group: ProcessGroup | None = None,
) -> list[Vectors]:
    """Stage 2: the raw feature and the embeddings of each head, for each backbone and then for fused backbones.

    With ``train``, heads that are not trained yet on these features, labels and settings are trained, and embeddings
    are stored. Without, nothing is written, and such a head is a MissingRowsError. With ``tensorboard`` the epochs are
    written as events too. Heads that cannot be trained on ``device`` are trained on the CPU. With ``only`` that head
    alone, or ``raw``, is asked for. The processes of a ``group`` train heads together, and the first embeds with them.
    """
    vectors = []
    for backbone, features, heads, raw in feature_sets(run):
        if raw and only in (None, RAW):
            vectors.append(Vectors(backbone, RAW, features, features))
        for wanted in heads:
            if only not in (None, wanted.name):
                continue
            with of_head(f"{wanted.name} on {backbone}"):
                head = find_head(run, wanted, backbone, features, train, tensorboard, device, group)
            if not is_first():
                continue
            path = run.storage.below(f"embeddings/{features.name}")
            embedded = embed if train else stored_embeddings
            embeddings = embedded(head, features, path, name=wanted.name, digests=run.records.digests)
            vectors.append(Vectors(backbone, wanted.name, embeddings, features, head))
    return vectors


def find_chosen(run: Run, head: str | None, backbone: str | None = None, *, text: bool = False) -> Vectors:
    """:func:`choose_vectors`; of a ``head`` that is named the others need not be trained.

    With ``text`` and no ``head`` it is one that knows words, where the run has any.
    """
    known = {RAW, *(each.name for each in run.config.heads)}
    every = find_vectors(run, only=head if head in known else None)
    if text and head is None and (knowing := [entry for entry in every if _knows_words(entry)]):
        every, head = knowing, next((entry.head for entry in knowing if entry.trained is not None), RAW)
    return choose_vectors(run, every, head, backbone)


def _knows_words(vectors: Vectors) -> bool:
    """A head of kind text, or the projected feature of open_clip."""
    if vectors.trained is not None:
        return vectors.trained.config.kind == "text"
    fields = vectors.features.identity.fields if isinstance(vectors.features, FeatureStore) else {}
    return (fields.get("library"), fields.get("output")) == ("open_clip", "projected")


def with_rows(run: Run, vectors: Sequence[Vectors]) -> Run:
    """The ``run`` of the records that all of ``vectors`` know, with a feature or as failed; others are counted."""
    records, digests = run.records, run.records.digests
    absent = {digest for entry in vectors for digest in entry.features.absent(digests)}
    if not absent:
        return run
    rows = [row for row, digest in enumerate(digests) if digest not in absent]
    first = records.keys[next(row for row, digest in enumerate(digests) if digest in absent)]
    run.display.warn(
        f"note: {len(records) - len(rows):,} of {len(records):,} images have no row yet, the first of key {first!r}: "
        "left out of this search. `permafrost extract` computes them."
    )
    return replace(run, records=records.take(rows))


def choose_vectors(run: Run, vectors: Sequence[Vectors], head: str | None, backbone: str | None = None) -> Vectors:
    """The vectors of ``head`` on ``backbone``, by default the first backbone that has it.

    By default it is the head that is best on the validation records, or the last of the run file where these are too
    few to choose by, or raw where there is no head. Raises ConfigError naming the heads (and backbones) of the run
    where there are no such vectors.
    """
    if head is None:
        heads = [entry for entry in vectors if entry.head != RAW and backbone in (None, entry.backbone)]
        if len(heads) > 1 and (best := _best_on_validation(heads, run.records)) is not None:
            return best
    name = head or (run.config.heads[-1].name if run.config.heads else RAW)
    for candidate in vectors:
        if candidate.head == name and backbone in (None, candidate.backbone):
            return candidate
    known = ", ".join(dict.fromkeys(candidate.head for candidate in vectors))
    backbones = ", ".join(dict.fromkeys(candidate.backbone for candidate in vectors))
    where = "" if backbone is None else f" on {backbone!r} (of {backbones})"
    raise ConfigError(f"{run.file} has no head {name!r}{where}; it has {known}")


def _best_on_validation(heads: Sequence[Vectors], records: Records) -> Vectors | None:
    """The one of the highest mMP@5 of validation queries, at most ``_QUERIES`` of them; None where they are too few."""
    scores = []
    for entry in heads:
        sides = validation_records(entry.store, records)
        if sides is None:
            return None
        queries, gallery = sides[0].take(range(0, len(sides[0]), -(-len(sides[0]) // _QUERIES))), sides[1]
        asking, searched = (unit_length(entry.store.read(side.digests)) for side in (queries, gallery))
        classes, itself = by_class(queries, gallery), own_rows(queries.keys, gallery.keys)
        values = values_by_class("mmp@5", asking, searched, classes.queries, classes.gallery, itself)
        scores.append(float(np.nanmean(values)))
    return heads[int(np.argmax(scores))]


@contextmanager
def of_head(name: str) -> Iterator[None]:
    """Errors of the records and settings begin with the ``name`` of the head that they are of."""
    try:
        yield
    except (RecordsError, SettingsError) as error:
        raise type(error)(f"{name}: {error}") from error


def find_head(
    run: Run,
    wanted: HeadRun,
    backbone: str,
    features: Features,
    train: bool = False,
    tensorboard: bool = False,
    device: str = "cpu",
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
    epochs = f"epoch {summary.epoch} kept: " if head.log and summary.anchor != 0 else ""
    if summary.anchor == 0:
        anchor = "; no share of the trained weights scores above the closed form it began at, and that is kept"
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
