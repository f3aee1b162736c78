"""Margin losses written as loops over plain numbers, from the papers: angles by ``math.acos``, no tensor operation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Vector = Sequence[float]


def cosine(a: Vector, b: Vector) -> float:
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths


def arcface_target(cos: float, margin_rad: float) -> float:
    """Deng et al. 2019, equation 3; past pi the straight line of the authors' code."""
    angle = math.acos(cos)
    if angle + margin_rad <= math.pi:
        return math.cos(angle + margin_rad)
    return cos - margin_rad * math.sin(margin_rad)


def cosface_target(cos: float, margin_cos: float) -> float:
    """Wang et al. 2018, equation 4."""
    return cos - margin_cos


def margin_softmax(
    embeddings: Sequence[Vector],
    labels: Sequence[int],
    prototypes: Sequence[Sequence[Vector]],
    target: Callable[[float], float],
    scale: float,
) -> float:
    """The mean over the rows; ``prototypes[c]`` are the subcenters of class c, of which the nearest counts."""
    total = 0.0
    for embedding, label in zip(embeddings, labels, strict=True):
        cosines = [max(cosine(embedding, subcenter) for subcenter in subcenters) for subcenters in prototypes]
        logits = [scale * (target(cos) if c == label else cos) for c, cos in enumerate(cosines)]
        highest = max(logits)
        log_sum = highest + math.log(sum(math.exp(logit - highest) for logit in logits))
        total += log_sum - logits[label]
    return total / len(labels)
