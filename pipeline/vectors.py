"""Stage 2 of a run file: the raw feature and the embeddings of each head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cache import Features, FeatureStore
from cache.errors import ConfigError, DamagedStoreError, MissingRowsError, StaleStoreError
from pipeline.checks import of_head
from pipeline.config import HeadRun
from pipeline.dataset import Run
from pipeline.features import FeatureSet, feature_sets
from pipeline.heads import find_head, validation_records
from pipeline.score_rows import RAW
from stages.ranking import own_rows, unit_length, values_by_class
from stages.records import Records
from stages.retrieval.query_set import by_class
from stages.training import FusedFeatures, Head, embed
from stages.training.embed import Embedded, stored_embeddings
from stages.training.process_group import is_first

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

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
                how: dict[str, Any] = {"train": train, "tensorboard": tensorboard, "device": device, "group": group}
                head = find_head(run, wanted, backbone, features, **how)
            if not is_first():
                continue
            path = run.storage.below(f"embeddings/{features.name}")
            embedded = embed if train else stored_embeddings
            embeddings = embedded(head, features, path, name=wanted.name, digests=run.records.digests)
            vectors.append(Vectors(backbone, wanted.name, embeddings, features, head))
    return vectors


class PlannedHead(NamedTuple):
    """A head, what it learns from, and whether it is there: a line of JSON."""

    backbone: str
    head: str
    state: str


def planned_heads(run: Run) -> list[PlannedHead]:
    """Every head of the run as :func:`find_vectors` would find it; without all features, every one is to be trained."""
    try:
        sets = feature_sets(run)
    except (MissingRowsError, StaleStoreError):
        return [PlannedHead("features that are extracted first", head.name, "to train") for head in run.config.heads]
    return [PlannedHead(part.name, head.name, _state(run, part, head)) for part in sets for head in part.heads]


def _state(run: Run, part: FeatureSet, wanted: HeadRun) -> str:
    try:
        head = find_head(run, wanted, part.name, part.features, train=False, tensorboard=False, device="cpu")
    except (MissingRowsError, DamagedStoreError):
        return "to train"
    path = run.storage.below(f"embeddings/{part.features.name}")
    stored = stored_embeddings(head, part.features, path, name=wanted.name, digests=run.records.digests)
    return "trained, to embed" if isinstance(stored, Embedded) else "there"


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
