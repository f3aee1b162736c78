"""Which features each head of a run learns from: those of one backbone, or of several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cache import FeatureStore
from cache.errors import ConfigError
from pipeline.config import HeadRun
from stages.training import FusedFeatures


class Learned(NamedTuple):
    """Features, the heads that learn from them, and whether they are scored raw."""

    name: str
    features: FeatureStore | FusedFeatures
    heads: tuple[HeadRun, ...]
    raw: bool


def features_of_heads(stores: Sequence[FeatureStore], heads: Sequence[HeadRun]) -> list[Learned]:
    """Each of ``stores`` with the heads that it alone feeds, then those of fused ones in the order of the heads.

    Raw features are scored of every store, and of every fusion of two or more without the sizes of images, which are
    no features.
    """
    names = _names(stores)
    alone = tuple((name,) for name in names)
    feeds: dict[tuple[tuple[str, ...], bool], list[HeadRun]] = {(name, False): [] for name in alone}
    for head in heads:
        for wanted in _wanted(head, names):
            if len(wanted) > 1:
                feeds.setdefault((wanted, False), [])
            feeds.setdefault((wanted, head.sizes), []).append(head)
    by_name = dict(zip(names, stores, strict=True))
    found = []
    for (wanted, sizes), fed in feeds.items():
        chosen = [by_name[name] for name in wanted]
        fused = len(chosen) > 1 or sizes
        features = FusedFeatures(chosen, sizes=sizes) if fused else chosen[0]
        found.append(Learned("+".join([*wanted, *(["sizes"] if sizes else [])]), features, tuple(fed), not sizes))
    return found


def _names(stores: Sequence[FeatureStore]) -> list[str]:
    """What each is called: two backbones of one name are told apart by their fingerprints."""
    names = [store.name for store in stores]
    return [store.name if names.count(store.name) == 1 else store.path.name for store in stores]


def _wanted(head: HeadRun, names: Sequence[str]) -> list[tuple[str, ...]]:
    """The backbones of each head that ``head`` asks for: one head a backbone, or one of several."""
    if not head.backbones:
        return [(name,) for name in names]
    if head.backbones == "all":
        return [tuple(names)]
    if unknown := [name for name in head.backbones if name not in names]:
        raise ConfigError(f"the head {head.name!r} names the backbone {unknown[0]!r}; this run has {', '.join(names)}")
    return [head.backbones]
