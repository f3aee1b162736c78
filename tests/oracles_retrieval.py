"""Retrieval written again as slow loops, from the definitions: what the tests compare with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def unit(vector: Sequence[float]) -> list[float]:
    length = math.sqrt(math.fsum(x * x for x in vector))
    return [x / length for x in vector] if length else list(vector)


def similarity(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """The inner product, rounded once: summed without error, then to float32."""
    return float(np.float32(math.fsum(float(a) * float(b) for a, b in zip(one, other, strict=True))))


def ranking(gallery: npt.NDArray[np.float32], query: npt.NDArray[np.float32], itself: int) -> list[tuple[int, float]]:
    """Every gallery row but ``itself`` with its similarity: nearest first, equal ones in gallery order."""
    pairs = [(row, similarity(query, vector)) for row, vector in enumerate(gallery) if row != itself]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


def metric(name: str, hits: Sequence[bool], num_relevant: int) -> float:
    """The metric ``name`` of one query: ``hits`` tells of each rank whether it is relevant."""
    if num_relevant == 0:
        return 0.0
    stem, _, argument = name.partition("@")
    if stem in ("map", "r_precision"):
        last = len(hits) if name == "map" else num_relevant
        found, total = 0, 0.0
        for rank, hit in enumerate(hits[:last], 1):
            if hit:
                found += 1
                total += found / rank
        return (found if stem == "r_precision" else total) / num_relevant
    k = int(argument)
    found = 0
    for hit in hits[: min(k, num_relevant) if stem == "mmp" else k]:
        found += hit
    return {
        "mmp": found / min(k, num_relevant),
        "hit": float(found > 0),
        "recall": found / num_relevant,
        "precision": found / k,
    }[stem]
