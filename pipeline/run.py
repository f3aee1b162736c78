"""The three stages of a run file, in order. Each takes what the one before left in the artifacts folder.

::

    <artifacts>/
        digests.sqlite                       the digests of unchanged files
        features/<backbone>-<...>/           stage 1: a store for each backbone's identity
        heads/<backbone>/<head>-<...>/       stage 2: head.safetensors and its training log
        heads/<backbone>/<...>.checkpoint    what a head in training goes on from when it is stopped
        tensorboard/<backbone>/<head>-<...>/ its epochs as events, where they are asked for
        embeddings/<backbone>/<head>-<...>/  a store for each head
        indexes/<backbone>/<head>-<...>/     the index of its gallery, where one was asked for
        scores/<run>.jsonl                   stage 3: the last scores of the run file of that name
        scores/<run>.parquet                 the value of every query that they are means of
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from cache import DigestCache, Features, FeatureStore, Identity
from cache.atomic import replace_text
from cache.errors import ConfigError, MissingRowsError
from cache.settings import changed_settings
from pipeline.approximate_scores import approximate_scores
from pipeline.backbones import find_features
from pipeline.config import HeadRun, RunConfig
from pipeline.feature_sets import feature_sets
from pipeline.progress import Display
from pipeline.score_rows import RAW, ScoreRow, json_lines
from stages.analysis import attribute_bounds, score_bounds
from stages.records import Records, read_records
from stages.retrieval import AttributeMetric, Scores, evaluate, evaluate_attributes, evaluate_legacy
from stages.retrieval.protocols import ByLabelConfig, MetConfig, Rules, SmallDataConfig
from stages.retrieval.query_values import Scored, data_of, write_query_values
from stages.training import EpochLog, FusedFeatures, Head, embed, epoch_events, head_identity, train_head
from stages.training.embed import stored_embeddings
from stages.training.training_inputs import check_device

_FEW_CLASSES = 5
_NOT_OF_A_SCORE = {"metrics", "gallery_sizes", "distractors"}  # [retrieval]: what changes no single value
LEAST_VALIDATION_CLASSES = 5  # fewer cannot tell epochs apart: held-out training classes choose


class Vectors(NamedTuple):
    """Something to score: a raw feature, or the embeddings of a head."""

    backbone: str
    head: str
    store: Features
    features: FeatureStore | FusedFeatures
    """What a head embeds; the store itself for the raw feature."""
    trained: Head | None = None
    """None for the raw feature."""


def read_dataset(config: RunConfig, display: Display) -> Records:
    """The records of the run, each with the digest of its bytes."""
    digests = DigestCache(Path(config.artifacts) / "digests.sqlite")
    with display.bar("reading records", "files") as update:
        records = read_records(
            config.datasets, seed=config.seed, digests=digests, on_progress=lambda done: update(done, None, "")
        )
    counts = records.counts()
    display.say("records: " + ", ".join(f"{count:,} {what}" for what, count in counts.items() if count))
    for remark in remarks(records, counts):
        display.warn(f"note: {remark}")
    return records


def remarks(records: Records, counts: Mapping[str, int]) -> list[str]:
    """Notes on these records that bear on how far a score can be trusted."""
    notes = []
    tested = len(set(records.split("query").classes))
    if tested < _FEW_CLASSES:
        notes.append(f"only {tested} classes search: scores say little of others")
    if leaked := counts["queries whose bytes are trained on"]:
        are = "query is" if leaked == 1 else "queries are"
        notes.append(f"{leaked:,} {are} byte-identical to a training image: such scores are too good")
    if nothing := counts["queries with nothing in the gallery"]:
        have = "query has" if nothing == 1 else "queries have"
        notes.append(f"{nothing:,} {have} nothing to find in the gallery, and no part in any mean")
    return notes


def find_vectors(
    config: RunConfig,
    records: Records,
    display: Display,
    *,
    train: bool = False,
    tensorboard: bool = False,
    device: str = "cpu",
) -> list[Vectors]:
    """Stage 2: the raw feature and the embeddings of each head, for each backbone and then for fused backbones.

    With ``train``, heads that are not trained yet on these features, labels and settings are trained, and embeddings
    are stored. Without, nothing is written, and such a head is a MissingRowsError. With ``tensorboard`` the epochs are
    written as events too. Heads that cannot be trained on ``device`` are trained on the CPU.
    """
    vectors = []
    stores = [store for wanted in config.backbones for store in find_features(wanted, config, records, display)]
    for backbone, features, heads, raw in feature_sets(stores, config.heads):
        if raw:
            vectors.append(Vectors(backbone, RAW, features, features))
        for wanted in heads:
            head = _head(
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
            embeddings: Features
            if train:
                embeddings = embed(head, features, path, name=wanted.name, digests=records.digests)
            else:
                embeddings = stored_embeddings(head, features, path, name=wanted.name, digests=records.digests)
            vectors.append(Vectors(backbone, wanted.name, embeddings, features, head))
    return vectors


def _head(
    config: RunConfig,
    wanted: HeadRun,
    backbone: str,
    features: Features,
    records: Records,
    display: Display,
    *,
    train: bool,
    tensorboard: bool,
    device: str,
) -> Head:
    """The head as it was saved, or else trained and saved where it may be."""
    arguments = training_arguments(config, wanted, features, records)
    identity = head_identity(**arguments)
    folder = head_folder(config, wanted.name, features, identity)
    if (folder / "head.safetensors").exists():
        if train:
            display.say(f"train {wanted.name} on {backbone}: trained before, on the same features and settings")
        return Head.load(folder, identity)
    if not train:
        raise MissingRowsError(
            f"{wanted.name} is not trained on {backbone} as the run file and the data are now. "
            "Run `permafrost train-heads` with this run file."
        )
    events = Path(config.artifacts, "tensorboard", features.name, folder.name) if tensorboard else None
    checkpoint = folder.with_name(f"{folder.name}.checkpoint")
    head = _train(wanted, backbone, arguments, display, checkpoint, events, device_for(wanted, device, display))
    head.save(folder)
    checkpoint.unlink(missing_ok=True)
    return head


def head_folder(config: RunConfig, name: str, features: Features, identity: Identity) -> Path:
    """Where the head ``name`` of that ``identity`` is saved."""
    return Path(config.artifacts) / "heads" / features.name / f"{name}-{identity.short}"


def device_for(wanted: HeadRun, device: str, display: Display) -> str:
    """Where ``wanted`` is trained: on ``device``, or on the CPU where that alone computes its steps."""
    import torch

    try:
        check_device(wanted.recipe, torch.device(device))
    except RuntimeError as error:
        raise ConfigError(f"--device must be cpu, cuda or cuda:NUMBER, got {device!r}") from error
    except ValueError:
        display.say(f"train {wanted.name}: on the CPU, where alone its steps are computed")
        return "cpu"
    return device


def _train(
    wanted: HeadRun,
    backbone: str,
    arguments: dict[str, Any],
    display: Display,
    checkpoint: Path,
    events: Path | None,
    device: str,
) -> Head:
    training = wanted.recipe.training
    if checkpoint.exists():
        display.say(f"train {wanted.name} on {backbone}: going on after the last epoch of the run that was stopped")
    with (
        display.bar(f"training {wanted.name} on {backbone}", "epochs") as update,
        epoch_events(events) as write,
    ):

        def report(epoch: EpochLog) -> None:
            score = "" if epoch.validation_mmp5 is None else f", validation mmp@5 {epoch.validation_mmp5:.3f}"
            member = (
                f", head {epoch.member} of {wanted.recipe.training.soup}" if wanted.recipe.training.soup > 1 else ""
            )
            mined = "" if epoch.zero_share is None else f", {epoch.zero_share:.0%} of the pairs without loss"
            expert = "" if epoch.expert is None else f", expert of {epoch.expert or 'no domain'}"
            update(epoch.epoch, training.epochs, f"loss {epoch.loss:.3f}{score}{mined}{member}{expert}")
            write(epoch)

        head = train_head(**arguments, on_epoch=report, checkpoint=checkpoint, device=device)
    summary, seconds = head.summary, sum(epoch.seconds for epoch in head.log)
    trained = f"{len(head.log)} epochs in {seconds:.1f} s; epoch {summary.epoch} kept: " if head.log else ""
    if summary.left_out:
        display.warn(
            f"{wanted.name} on {backbone}: trained without {', '.join(summary.left_out)}, which cannot be learned"
        )
    anchor = "" if summary.anchor is None else f"; {summary.anchor:g} of it, {1 - summary.anchor:g} of the start"
    display.say(
        f"train {wanted.name} on {backbone}: {summary.rows:,} images of {summary.classes:,} classes, "
        f"{trained}{summary.chosen_by}{anchor}"
    )
    return head


def training_arguments(
    config: RunConfig, wanted: HeadRun, features: Features, records: Records, train: Records | None = None
) -> dict[str, Any]:
    """The arguments of ``head_identity`` and ``train_head``: everything that a head follows from.

    It is trained on ``train``, by default the records of that role.
    """
    return {
        "features": features,
        "records": records.split("train") if train is None else train,
        "recipe": wanted.recipe,
        "validation": _validation(features, records),
        "seed": config.seed,
    }


def _validation(features: Features, records: Records) -> tuple[Records, Records] | None:
    """Query and gallery to choose the epoch on, or None where they are too few classes to choose by."""
    queries, gallery = records.split("validation_query"), records.split("validation_gallery")
    queries, gallery = (part.take(part.rows_in(features)) for part in (queries, gallery))
    searched, keys = Counter(gallery.classes), set(gallery.keys)
    pairs = zip(queries.keys, queries.classes, strict=True)
    answerable = {name for key, name in pairs if searched[name] > (key in keys)}
    return (queries, gallery) if len(answerable) >= LEAST_VALIDATION_CLASSES else None


def _left_out(scores: Scores) -> str:
    counts = {
        "failed queries": scores.failed_queries,
        "failed gallery images": scores.failed_gallery,
        "queries with nothing relevant in the gallery": scores.unanswerable,
    }
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def score_vectors(config: RunConfig, records: Records, store: Features) -> Iterator[Scores]:
    """The scores by label, by attributes, and by the legacy measure, of those that the run file asks for."""
    queries, gallery, retrieval = records.split("query"), records.split("gallery"), config.retrieval
    by_attributes = {name: metric for name in retrieval.metrics if (metric := AttributeMetric.find(name)) is not None}
    if by_label := [name for name in retrieval.metrics if name not in by_attributes]:
        of_nothing = isinstance(retrieval.protocol, MetConfig)
        yield evaluate(
            store,
            queries=records.split("query", "query_distractor") if of_nothing else queries,
            gallery=gallery,
            metrics=by_label,
            protocol=ByLabelConfig() if isinstance(retrieval.protocol, SmallDataConfig) else retrieval.protocol,
            validation=(
                records.split("validation_query", "validation_query_distractor"),
                records.split("validation_gallery"),
            ),
            ties=retrieval.ties,
            unanswerable=retrieval.unanswerable,
        )
    legacy = [name for name, metric in by_attributes.items() if metric.legacy]
    if graded := [name for name in by_attributes if name not in legacy]:
        yield evaluate_attributes(
            store,
            queries=queries,
            gallery=gallery,
            metrics=graded,
            similar=retrieval.similar,
            unanswerable=retrieval.unanswerable,
        )
    if legacy:
        if queries.keys != gallery.keys:
            raise ConfigError(
                f"{legacy[0]} searches a set in itself: dataset.query and dataset.gallery must name the same splits"
            )
        yield evaluate_legacy(store, queries, metrics=legacy, similar=retrieval.similar)


def score(
    config: RunConfig, name: str, records: Records, vectors: Sequence[Vectors], display: Display
) -> list[ScoreRow]:
    """Stage 3: search and score; also written to ``scores/<name>.jsonl``, and query by query to ``<name>.parquet``."""
    rows, scored = [], []
    known: dict[bytes, Mapping[tuple[str, str], tuple[float, float]]] = {}
    for entry in vectors:
        usable = entry.store.usable(records.digests).tobytes()  # bounds follow from which images there are
        bounds = known[usable] if usable in known else known.setdefault(usable, bounds_of(config, records, entry.store))
        exact = ((entry.head, scores) for scores in score_vectors(config, records, entry.store))
        others = approximate_scores(config, records, entry.backbone, entry.head, entry.store, display)
        for head, scores in chain(exact, others):
            scored.append(Scored(entry.backbone, head, entry.store.fingerprint, scores))
            rows += [
                ScoreRow(
                    entry.backbone,
                    head,
                    score.domain,
                    score.metric,
                    score.value,
                    score.low,
                    score.high,
                    score.queries,
                    score.gallery,
                    entry.store.fingerprint,
                    *bounds.get((score.metric, score.domain), (None, None)),
                )
                for score in scores
            ]
            if left_out := _left_out(scores):
                display.warn(f"{entry.backbone} {head}: left out: {left_out}")
    path = Path(config.artifacts) / "scores" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_query_values(path.with_suffix(".parquet"), scored, scored_data(config, records))
    replace_text(path, json_lines(rows))
    return rows


def bounds_of(config: RunConfig, records: Records, store: Features) -> Mapping[tuple[str, str], tuple[float, float]]:
    """Floor and ceiling of the metrics, by metric and domain, for the images that have a row in ``store``.

    The legacy measure brings its own as scores beside it.
    """
    retrieval = config.retrieval
    if isinstance(retrieval.protocol, MetConfig):
        return {}  # scores of all queries together, by confidence
    by_attributes = {name: metric for name in retrieval.metrics if (metric := AttributeMetric.find(name)) is not None}
    by_label = [name for name in retrieval.metrics if name not in by_attributes]
    graded = [name for name, metric in by_attributes.items() if not metric.legacy]
    sides = (records.split(role) for role in ("query", "gallery"))
    queries, gallery = (side.take(side.rows_in(store)) for side in sides)
    ends = (
        dict(attribute_bounds(queries, gallery, graded, retrieval.similar, unanswerable=retrieval.unanswerable))
        if graded
        else {}
    )
    rules = rules_of(config)
    return ends | dict(
        score_bounds(queries, gallery, by_label, rules, unanswerable=retrieval.unanswerable, seed=config.seed)
    )


def rules_of(config: RunConfig) -> Rules:
    """Who is relevant to whom by the run's protocol; by label where it ranks nothing."""
    protocol = config.retrieval.protocol
    return ByLabelConfig().rules() if isinstance(protocol, (MetConfig, SmallDataConfig)) else protocol.rules()


def scored_data(config: RunConfig, records: Records) -> dict[str, str]:
    """What the scores of a run follow from beside the embeddings."""
    changed = changed_settings(config.retrieval)
    settings = {key: value for key, value in changed.items() if key not in _NOT_OF_A_SCORE}
    return data_of(records.split("query", "query_distractor"), records.split("gallery"), settings)
