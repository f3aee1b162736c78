"""Protocols of evaluation, as objects: each says in ``rules()`` who is relevant, what is searched, and what is told.

To add one: a frozen dataclass with a ``kind`` and ``rules``, and its name in ``ProtocolConfig``.
"""

from __future__ import annotations

from typing import TypeAlias

from stages.retrieval.protocols.by_label import (
    ByLabelConfig,
    LeaveOneOutConfig,
    Products10kConfig,
    QueryGalleryConfig,
    UnedConfig,
)
from stages.retrieval.protocols.rules import Rules

ProtocolConfig: TypeAlias = ByLabelConfig | LeaveOneOutConfig | QueryGalleryConfig | Products10kConfig | UnedConfig
"""Any protocol; ``kind`` tells them apart."""

__all__ = [
    "ByLabelConfig",
    "LeaveOneOutConfig",
    "Products10kConfig",
    "ProtocolConfig",
    "QueryGalleryConfig",
    "Rules",
    "UnedConfig",
]
