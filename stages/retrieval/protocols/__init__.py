"""Protocols of evaluation: each says in ``rules()`` who is relevant, what is searched, and what is reported.

To add one: a frozen dataclass with a ``kind`` and ``rules``, and its name in ``RankedConfig``.
"""

from __future__ import annotations

from typing import TypeAlias

from stages.retrieval.protocols.kinds import (
    ByLabelConfig,
    Gldv2Config,
    IliasConfig,
    LeaveOneOutConfig,
    ListedConfig,
    MetConfig,
    Products10kConfig,
    QueryGalleryConfig,
    RevisitedConfig,
    SmallDataConfig,
    UnedConfig,
)
from stages.retrieval.protocols.rules import Rules

RankedConfig: TypeAlias = (
    ByLabelConfig
    | LeaveOneOutConfig
    | QueryGalleryConfig
    | Products10kConfig
    | UnedConfig
    | RevisitedConfig
    | Gldv2Config
    | IliasConfig
    | ListedConfig
)
"""A protocol that scores which ranks hold something relevant."""

ProtocolConfig: TypeAlias = RankedConfig | MetConfig | SmallDataConfig
"""Any protocol; ``kind`` tells them apart."""

__all__ = [
    "ByLabelConfig",
    "Gldv2Config",
    "IliasConfig",
    "LeaveOneOutConfig",
    "ListedConfig",
    "MetConfig",
    "Products10kConfig",
    "ProtocolConfig",
    "QueryGalleryConfig",
    "RankedConfig",
    "RevisitedConfig",
    "Rules",
    "SmallDataConfig",
    "UnedConfig",
]
