"""The features of a run, as they were extracted, and which of its heads learn from which of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cache import FeatureStore
from cache.errors import ConfigError, MissingRowsError, StaleStoreError
from cache.features import fused_name
from pipeline.config import FeaturesConfig, HeadRun
from pipeline.dataset import Run
from stages.extraction import Backbone, BackboneConfig
from stages.extraction.extract import find_store
from stages.extraction.known import known_backbones, noted_backbones
from stages.extraction.precomputed import PrecomputedConfig, find_imported
from stages.training import FusedFeatures

_REMEDY = "Run `permafrost extract` with this run file to compute these features."


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
    if len(matches) == 1:
        return matches[0]
    return max(matches, key=lambda match: int(match[1][0].usable(run.records.digests).sum()))
