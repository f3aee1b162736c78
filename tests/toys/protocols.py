"""Every protocol, for tests of what holds in all of them. Lists are the attributes easy, hard and junk."""

from __future__ import annotations

from collections.abc import Mapping

from stages.retrieval.protocols import (
    ByLabelConfig,
    Gldv2Config,
    IliasConfig,
    LeaveOneOutConfig,
    ListedConfig,
    Products10kConfig,
    QueryGalleryConfig,
    RankedConfig,
    RevisitedConfig,
    UnedConfig,
)

RANKED: Mapping[str, RankedConfig] = {
    "by_label": ByLabelConfig(),
    "by several labels": ByLabelConfig(labels="landmarks"),
    "leave_one_out": LeaveOneOutConfig(),
    "query_gallery": QueryGalleryConfig(),
    "products10k": Products10kConfig(),
    "uned": UnedConfig(),
    "uned, separate": UnedConfig(gallery="separate"),
    "revisited": RevisitedConfig(),
    "revisited, easy": RevisitedConfig(level="easy"),
    "revisited, hard": RevisitedConfig(level="hard"),
    "gldv2": Gldv2Config(),
    "ilias": IliasConfig(),
    "listed": ListedConfig(relevant=("easy", "hard"), junk=("junk",)),
}
