"""Stage 2 of a run file: the raw feature and the embeddings of each head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cache import Features, FeatureStore
from cache.errors import ConfigError
from pipeline.config import RunConfig
from pipeline.features import feature_sets
from pipeline.heads import find_head
from pipeline.progress import Display
from pipeline.score_rows import RAW
from stages.records import Records
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


def find_vectors(
    config: RunConfig,
    records: Records,
    display: Display,
    *,
    train: bool = False,
    tensorboard: bool = False,
    device: str = "cpu",
    head: str | None = None,
) -> list[Vectors]:
    """Stage 2: the raw feature and the embeddings of each head, for each backbone and then for fused backbones.

    With ``train``, heads that are not trained yet on these features, labels and settings are trained, and embeddings
    are stored. Without, nothing is written, and such a head is a MissingRowsError. With ``tensorboard`` the epochs are
    written as events too. Heads that cannot be trained on ``device`` are trained on the CPU. With ``head`` only
    that one, or ``raw``, is asked for.
    """
    vectors = []
    for backbone, features, heads, raw in feature_sets(config, records, display):
        if raw and head in (None, RAW):
            vectors.append(Vectors(backbone, RAW, features, features))
        for wanted in heads:
            if head not in (None, wanted.name):
                continue
            trained = find_head(
                config,
                wanted,
                backbone,
                features,
                records,
                display,
                train=train,
                tensorboard=tensorboard,
                device=device,
            )
            path = Path(config.artifacts) / "embeddings" / features.name
            embedded = embed if train else stored_embeddings
            embeddings = embedded(trained, features, path, name=wanted.name, digests=records.digests)
            vectors.append(Vectors(backbone, wanted.name, embeddings, features, trained))
    return vectors


def find_chosen(
    config: RunConfig,
    run_file: object,
    records: Records,
    display: Display,
    head: str | None,
    backbone: str | None = None,
) -> Vectors:
    """:func:`choose_vectors` where no other head is wanted: the others need not be trained."""
    wanted = head or default_head(config)
    known = {RAW, *(run.name for run in config.heads)}
    vectors = find_vectors(config, records, display, head=wanted if wanted in known else None)
    return choose_vectors(config, run_file, vectors, head, backbone)


def default_head(config: RunConfig) -> str:
    """The head that is searched with where none is named: the last of the run file."""
    return config.heads[-1].name if config.heads else RAW


def with_rows(records: Records, vectors: Sequence[Vectors], display: Display) -> Records:
    """The ``records`` that all of ``vectors`` know, as a feature or as failed; how many are left out is said."""
    digests = records.digests
    absent = {digest for entry in vectors for digest in entry.features.absent(digests)}
    if not absent:
        return records
    rows = [row for row, digest in enumerate(digests) if digest not in absent]
    first = next(key for key, digest in zip(records.keys, digests, strict=True) if digest in absent)
    display.warn(
        f"note: {len(records) - len(rows):,} of {len(records):,} images have no row yet, the first of key {first!r}: "
        "left out of this search. `permafrost extract` computes them."
    )
    return records.take(rows)


def choose_vectors(
    config: RunConfig, run_file: object, vectors: Sequence[Vectors], head: str | None, backbone: str | None
) -> Vectors:
    """The vectors of ``head``, by default the last of the run file, on ``backbone``, by default the first that has it.

    Raises ConfigError naming the heads (and backbones) of the run where there are no such vectors.
    """
    name = head or default_head(config)
    for candidate in vectors:
        if candidate.head == name and backbone in (None, candidate.backbone):
            return candidate
    known = ", ".join(dict.fromkeys(candidate.head for candidate in vectors))
    backbones = ", ".join(dict.fromkeys(candidate.backbone for candidate in vectors))
    where = "" if backbone is None else f" on {backbone!r} (of {backbones})"
    raise ConfigError(f"{run_file} has no head {name!r}{where}; it has {known}")
