"""Stage 2 of a run file: the raw feature and the embeddings of each head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from cache import Features, FeatureStore
from cache.errors import ConfigError
from pipeline.dataset import Run
from pipeline.features import feature_sets
from pipeline.heads import find_head
from pipeline.score_rows import RAW
from stages.training import FusedFeatures, Head, embed
from stages.training.embed import stored_embeddings


class Vectors(NamedTuple):
    """Something to score: a raw feature, or the embeddings of a head."""

    backbone: str
    head: str
    store: Features
    features: FeatureStore | FusedFeatures
    """What a head embeds; the store itself for the raw feature."""
    trained: Head | None = None
    """None for the raw feature."""


def find_vectors(run: Run, *, train: bool = False, tensorboard: bool = False, device: str = "cpu") -> list[Vectors]:
    """Stage 2: the raw feature and the embeddings of each head, for each backbone and then for fused backbones.

    With ``train``, heads that are not trained yet on these features, labels and settings are trained, and embeddings
    are stored. Without, nothing is written, and such a head is a MissingRowsError. With ``tensorboard`` the epochs are
    written as events too. Heads that cannot be trained on ``device`` are trained on the CPU.
    """
    vectors = []
    for backbone, features, heads, raw in feature_sets(run):
        if raw:
            vectors.append(Vectors(backbone, RAW, features, features))
        for wanted in heads:
            head = find_head(run, wanted, backbone, features, train=train, tensorboard=tensorboard, device=device)
            path = run.artifacts / "embeddings" / features.name
            embedded = embed if train else stored_embeddings
            embeddings = embedded(head, features, path, name=wanted.name, digests=run.records.digests)
            vectors.append(Vectors(backbone, wanted.name, embeddings, features, head))
    return vectors


def with_rows(run: Run, vectors: Sequence[Vectors]) -> Run:
    """The ``run`` of the records that all of ``vectors`` know, with a feature or as failed; others are counted."""
    records, digests = run.records, run.records.digests
    absent = {digest for entry in vectors for digest in entry.features.absent(digests)}
    if not absent:
        return run
    rows = [row for row, digest in enumerate(digests) if digest not in absent]
    first = next(key for key, digest in zip(records.keys, digests, strict=True) if digest in absent)
    run.display.warn(
        f"note: {len(records) - len(rows):,} of {len(records):,} images have no row yet, the first of key {first!r}: "
        "left out of this search. `permafrost extract` computes them."
    )
    return replace(run, records=records.take(rows))


def choose_vectors(run: Run, vectors: Sequence[Vectors], head: str | None, backbone: str | None = None) -> Vectors:
    """The vectors of ``head``, by default the last of the run file, on ``backbone``, by default the first that has it.

    Raises ConfigError naming the heads (and backbones) of the run where there are no such vectors.
    """
    name = head or (run.config.heads[-1].name if run.config.heads else RAW)
    for candidate in vectors:
        if candidate.head == name and backbone in (None, candidate.backbone):
            return candidate
    known = ", ".join(dict.fromkeys(candidate.head for candidate in vectors))
    backbones = ", ".join(dict.fromkeys(candidate.backbone for candidate in vectors))
    where = "" if backbone is None else f" on {backbone!r} (of {backbones})"
    raise ConfigError(f"{run.file} has no head {name!r}{where}; it has {known}")
