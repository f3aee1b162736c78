"""A run file with its records and its features: what was extracted, and which heads learn from which of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple

from cache import DigestCache, FeatureStore, Storage, fingerprint
from cache.errors import ConfigError, MissingRowsError, StaleStoreError
from cache.features import fused_name
from cache.layout import cache_folder
from cache.storage import has, is_url, storage_of
from pipeline.config import FeaturesConfig, HeadRun, RunConfig, read_config
from pipeline.progress import Display
from stages.extraction import Backbone, BackboneConfig
from stages.extraction.extract import find_store
from stages.extraction.known import known_backbones, noted_backbones
from stages.extraction.precomputed import PrecomputedConfig, find_imported
from stages.records import Records, read_records
from stages.training import FusedFeatures

_REMEDY = "Run `permafrost extract` with this run file to compute these features."
_FEW_CLASSES = 5


@dataclass(frozen=True)
class Run:
    """A run file with its records, and where a command says what it does."""

    file: Path | str
    config: RunConfig
    records: Records
    display: Display

    @property
    def name(self) -> str:
        """Of the files that are made of it."""
        return PurePath(self.file).stem

    @property
    def storage(self) -> Storage:
        """Where everything is that is made: ``artifacts``, a folder or an address in object storage."""
        return storage_of(self.config.artifacts)

    @property
    def artifacts(self) -> Path:
        """The folder of everything that is made. Raises ConfigError where it is in object storage."""
        if is_url(self.config.artifacts):
            raise ConfigError(
                f"artifacts = {self.config.artifacts!r} is in object storage, and this command works in a folder of a "
                "local disk, as do sweep, table, compact and train-heads --tensorboard. Copy the artifacts to one, and "
                "name that."
            )
        return Path(self.config.artifacts)

    def say_gallery(self, count: int) -> None:
        """Say so where ``count`` images of the gallery are searched, and not all that there are."""
        if count < len(self.records):
            self.display.say(f"note: the gallery is {count:,} of {len(self.records):,} images; --all takes every one")

    @property
    def scratch(self) -> Path:
        """The folder for what only saves time on this machine."""
        return _scratch(self.config)

    @property
    def digests(self) -> DigestCache:
        """The digests of files as they were when they were read last."""
        return DigestCache(self.scratch / "digests.sqlite")


def _scratch(config: RunConfig) -> Path:
    """The artifacts, or where they are in object storage a folder beside the copies of objects."""
    if is_url(config.artifacts):
        return cache_folder() / "artifacts" / fingerprint(config.artifacts)[:16]
    return Path(config.artifacts)


def open_run(run_file: Path | str, *, quiet: bool = False, workers: int | None = None) -> Run:
    """The run of ``run_file``, with its records; files that have no digest yet are read by so many ``workers``."""
    return run_of(read_config(run_file), Display(quiet=quiet), run_file, workers)


def run_of(config: RunConfig, display: Display, run_file: Path | str = "run.toml", workers: int | None = None) -> Run:
    """The run of ``config``, which ``run_file`` holds, with its records, each with the digest of its bytes."""
    if is_url(config.artifacts):  # what cannot be reached is said before any image is read
        has(storage_of(config.artifacts), "features")
    digests = DigestCache(_scratch(config) / "digests.sqlite", workers=workers)
    with display.bar("reading records", "files") as update:
        records = read_records(
            config.datasets, seed=config.seed, digests=digests, on_progress=lambda done: update(done, None, "")
        )
    for note in digests.notes:
        display.warn(note)
    counts = records.counts()
    display.say(f"records: {counts_text(counts)}")
    for note in records.notes:
        display.say(note)
    for remark in remarks(config, records, counts):
        display.warn(f"note: {remark}")
    return Run(run_file, config, records, display)


def counts_text(counts: Mapping[str, int]) -> str:
    """What there is, of the ``counts`` of records, as a person reads it.

    >>> counts_text({"records": 1200, "validation_query": 40, "unreadable": 0})
    '1,200 records, 40 validation query'
    """
    return ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in counts.items() if count)


def remarks(config: RunConfig, records: Records, counts: Mapping[str, int]) -> list[str]:
    """Notes on these records that bear on how far a score by ``config`` can be trusted."""
    notes = []
    train, query = records.split("train"), records.split("query")
    tested, learned = query.distinct_classes(), train.distinct_classes()
    if len(tested) < _FEW_CLASSES and records.has_labels:
        notes.append(f"only {len(tested)} classes search: scores say little of others")
    labels = {label for label, _ in learned} - {None}
    if across := len({name[0] for name in tested if name[0] in labels and name not in learned}):
        notes.append(
            f"{across:,} labels that search in one domain are trained on in another: no head has seen them only if the "
            "name means something else there"
        )
    if leaked := counts["queries whose bytes are trained on"]:
        are = "query is" if leaked == 1 else "queries are"
        notes.append(f"{leaked:,} {are} byte-identical to a training image: such scores are too good")
    nothing = counts["queries with nothing in the gallery"]  # of the same label, which other columns may overrule
    if nothing and not config.retrieval.ranked.columns:
        have = "query has" if nothing == 1 else "queries have"
        part = "count 0 in every mean" if config.retrieval.unanswerable == "zero" else "no part in any mean"
        notes.append(f"{nothing:,} {have} nothing to find in the gallery, and {part}")
    return notes


class FeatureSet(NamedTuple):
    """Features, the heads that learn from them, and whether they are scored raw."""

    name: str
    features: FeatureStore | FusedFeatures
    heads: tuple[HeadRun, ...]
    raw: bool


def feature_sets(run: Run, heads: Sequence[HeadRun] | None = None) -> list[FeatureSet]:
    """Each store of the run with the ``heads`` that learn from it alone, then the fused ones in the order of the heads.

    All are scored raw but fusions with the sizes of images, which are no features.
    """
    stores = [store for wanted in run.config.backbones for store in find_features(run, wanted)]
    given = [store.name for store in stores]  # of those that share a name, the folders hold their fingerprints
    names = [store.name if given.count(store.name) == 1 else store.folder for store in stores]
    heads_of: dict[tuple[tuple[str, ...], bool], list[HeadRun]] = {((name,), False): [] for name in names}
    for head in run.config.heads if heads is None else heads:
        for sources in sources_of(head, names):
            if len(sources) > 1:
                heads_of.setdefault((sources, False), [])
            heads_of.setdefault((sources, head.sizes), []).append(head)
    by_name = dict(zip(names, stores, strict=True))
    sets = []
    for (sources, sizes), learning in heads_of.items():
        parts = [by_name[name] for name in sources]
        features = FusedFeatures(parts, sizes=sizes) if len(parts) > 1 or sizes else parts[0]
        sets.append(FeatureSet(fused_name(sources, sizes=sizes), features, tuple(learning), not sizes))
    return sets


def sources_of(head: HeadRun, names: Sequence[str]) -> list[tuple[str, ...]]:
    """The backbones that each training of ``head`` learns from: every one alone, or several together."""
    if not head.backbones:
        return [(name,) for name in names]
    if head.backbones == "all":
        return [tuple(names)]
    if unknown := [name for name in head.backbones if name not in names]:
        raise ConfigError(f"the head {head.name!r} names the backbone {unknown[0]!r}; this run has {', '.join(names)}")
    return [head.backbones]


def stores_of(features: FeatureStore | FusedFeatures) -> tuple[FeatureStore, ...]:
    """The stores that ``features`` are read from, in the order of fusion."""
    return features.stores if isinstance(features, FusedFeatures) else (features,)


def networks_of(
    run: Run, stores: Sequence[FeatureStore]
) -> Iterator[tuple[BackboneConfig, tuple[Backbone, ...], list[FeatureStore]]]:
    """The networks of the run that filled any of ``stores``, each with all stores it fills, and its backbone for each.

    Raises ConfigError where one of ``stores`` was read from a file: no network gives an image such a feature.
    """
    needed = {store.fingerprint for store in stores}
    for wanted in run.config.backbones:
        backbones, filled = _filled(run, wanted)
        if needed.isdisjoint(store.fingerprint for store in filled):
            continue
        if isinstance(wanted, PrecomputedConfig):
            raise ConfigError(
                f"the features {wanted.name} come from {wanted.path}: no network here gives an image such a feature. "
                "Take a backbone that runs, or score: permafrost score."
            )
        yield wanted, backbones, filled


def find_features(run: Run, wanted: FeaturesConfig) -> list[FeatureStore]:
    """The stores that ``wanted`` filled, one a pooling. StaleStoreError or MissingRowsError where there is none."""
    return _filled(run, wanted)[1]


def _filled(run: Run, wanted: FeaturesConfig) -> tuple[tuple[Backbone, ...], list[FeatureStore]]:
    """The backbones of ``wanted``, none where it is a file, and the store that each of them filled.

    With ``precision = "auto"`` a CPU and a card fill different stores: those with more of the run's images.
    """
    folder, dtype = run.storage.below("features"), run.config.extraction.dtype
    if isinstance(wanted, PrecomputedConfig):
        return (), [find_imported(wanted, run.records, folder, dtype=dtype, remedy=_REMEDY, digests=run.digests)]
    noted = noted_backbones(wanted, run.records, folder)
    if not noted:  # never extracted, or something changed since: then its identity says what
        noted = [known_backbones(wanted, run.records, folder, on_load=run.display.say)]
    errors: list[StaleStoreError | MissingRowsError] = []
    matches = []
    for backbones in noted:
        try:
            stores = [find_store(backbone, folder, dtype=dtype, remedy=_REMEDY) for backbone in backbones]
            matches.append((backbones, stores))
        except (StaleStoreError, MissingRowsError) as error:
            errors.append(error)
    if not matches:
        raise errors[0]
    return max(matches, key=lambda match: int(match[1][0].usable(run.records.digests).sum()))
