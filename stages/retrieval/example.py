"""Six kinds of things, four images of each, in memory: what the examples of this package search."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from stages.records import COLUMNS, Records

_LABELS = [label for label in ("bag", "belt", "boot", "coat", "hat", "shirt") for _ in range(4)]
_ANGLES = np.radians(np.repeat(60 * np.arange(6), 4) + np.tile([0, 5, 12, 20], 6))
_DIGESTS = [bytes([row]) * 32 for row in range(24)]

IMAGES = Records(
    pa.table(
        dict.fromkeys(COLUMNS, pa.nulls(24, pa.string()))
        | {
            "key": [f"{label}/{row % 4}" for row, label in enumerate(_LABELS)],
            "digest": pa.array(_DIGESTS, pa.binary(32)),
            "label": _LABELS,
            "tags": [f"{label} {size}" for label, size in zip(_LABELS, ["small", "large"] * 12, strict=True)],
            "attributes.kind": _LABELS,
        }
    ),
    {},
)
VECTORS: Any = SimpleNamespace(  # as much of cache.Features as searching takes
    path="memory",
    dim=2,
    fingerprint="0" * 64,
    absent=lambda digests: [],  # noqa: ARG005
    usable=lambda digests: np.ones(len(digests), np.bool_),
    checksums=lambda digests: np.zeros(len(digests), np.uint32),
    read=lambda digests: np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)[[digest[0] for digest in digests]],
)
