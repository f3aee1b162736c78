"""Which features each head of a run learns from: those of one backbone, or of several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cache import FeatureStore
from cache.errors import ConfigError
from pipeline.config import HeadRun
from stages.training import FusedFeatures


class FeatureSet(NamedTuple):
    """Features, the heads that learn from them, and whether they are scored raw."""

    name: str
    features: FeatureStore | FusedFeatures
    heads: tuple[HeadRun, ...]
    raw: bool


def feature_sets(stores: Sequence[FeatureStore], heads: Sequence[HeadRun]) -> list[FeatureSet]:
    """Each of ``stores`` with the heads that learn from it alone, then the fused ones in the order of the heads.

    Every store is scored raw, and every fusion of two or more. The sizes of images are no features: a fusion with
    them is not scored raw.
    """
    names = _store_names(stores)
    heads_of: dict[tuple[tuple[str, ...], bool], list[HeadRun]] = {((name,), False): [] for name in names}
    for head in heads:
        for sources in _sources(head, names):
            if len(sources) > 1:
                heads_of.setdefault((sources, False), [])
            heads_of.setdefault((sources, head.sizes), []).append(head)
    by_name = dict(zip(names, stores, strict=True))
    sets = []
    for (sources, sizes), learning in heads_of.items():
        parts = [by_name[name] for name in sources]
        features = FusedFeatures(parts, sizes=sizes) if len(parts) > 1 or sizes else parts[0]
        name = "+".join([*sources, *(["sizes"] if sizes else [])])
        sets.append(FeatureSet(name, features, tuple(learning), not sizes))
    return sets


def _store_names(stores: Sequence[FeatureStore]) -> list[str]:
    """The name of each store; stores of one name go by their folders, which hold their fingerprints."""
    names = [store.name for store in stores]
    return [store.name if names.count(store.name) == 1 else store.path.name for store in stores]


def _sources(head: HeadRun, names: Sequence[str]) -> list[tuple[str, ...]]:
    """The backbones that each training of ``head`` learns from: every one alone, or several together."""
    if not head.backbones:
        return [(name,) for name in names]
    if head.backbones == "all":
        return [tuple(names)]
    if unknown := [name for name in head.backbones if name not in names]:
        raise ConfigError(f"the head {head.name!r} names the backbone {unknown[0]!r}; this run has {', '.join(names)}")
    return [head.backbones]
