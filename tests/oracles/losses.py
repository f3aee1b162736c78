"""Margin losses written as loops over plain numbers, from the papers: angles by ``math.acos``, no tensor operation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

Vector = Sequence[float]
Prototypes = Sequence[Sequence[Vector]]  # [class][subcenter], of which the nearest counts
Logits = Callable[[list[float], int, int], list[float]]  # cosines of one row with every class, its label, its number


def norm(a: Vector) -> float:
    return math.sqrt(sum(x * x for x in a))


def cosine(a: Vector, b: Vector) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (norm(a) * norm(b))


def cosines_of(embedding: Vector, prototypes: Prototypes) -> list[float]:
    return [max(cosine(embedding, subcenter) for subcenter in subcenters) for subcenters in prototypes]


def cross_entropy(logits: Sequence[float], label: int, smoothing: float = 0.0) -> float:
    """Of the truth 1 - ``smoothing`` on ``label`` and ``smoothing`` shared by all classes (Szegedy et al. 2016)."""
    highest = max(logits)
    log_sum = highest + math.log(sum(math.exp(logit - highest) for logit in logits))
    truth = [smoothing / len(logits) + (1 - smoothing) * (c == label) for c in range(len(logits))]
    return sum(share * (log_sum - logit) for share, logit in zip(truth, logits, strict=True))


def softmax_loss(
    embeddings: Sequence[Vector],
    labels: Sequence[int],
    prototypes: Prototypes,
    logits: Logits,
    smoothing: float = 0.0,
) -> float:
    """The mean over the rows."""
    each = [
        cross_entropy(logits(cosines_of(embedding, prototypes), label, row), label, smoothing)
        for row, (embedding, label) in enumerate(zip(embeddings, labels, strict=True))
    ]
    return sum(each) / len(each)


def moving(target: Callable[[float], float], scale: float) -> Logits:
    """The logits of a loss that moves the cosine of the target and leaves the others."""

    def logits(cosines: list[float], label: int, row: int) -> list[float]:
        return [scale * (target(cos) if c == label else cos) for c, cos in enumerate(cosines)]

    return logits


def margin_softmax(
    embeddings: Sequence[Vector],
    labels: Sequence[int],
    prototypes: Prototypes,
    target: Callable[[float], float],
    scale: float,
) -> float:
    return softmax_loss(embeddings, labels, prototypes, moving(target, scale))


def arcface_target(cos: float, margin_rad: float) -> float:
    """Deng et al. 2019, equation 3; past pi the straight line of the authors' code."""
    angle = math.acos(cos)
    if angle + margin_rad <= math.pi:
        return math.cos(angle + margin_rad)
    return cos - margin_rad * math.sin(margin_rad)


def cosface_target(cos: float, margin_cos: float) -> float:
    """Wang et al. 2018, equation 4."""
    return cos - margin_cos


def sphereface_target(cos: float, margin_factor: float) -> float:
    """Liu et al. 2017: psi = (-1)^k cos(m t) - 2k for t in [k pi / m, (k + 1) pi / m]."""
    angle = margin_factor * math.acos(cos)
    k = int(angle // math.pi)
    return (-1.0 if k % 2 else 1.0) * math.cos(angle) - 2 * k


def li_arcface(margin_rad: float, scale: float) -> Logits:
    """Li et al. 2019: logits (pi - 2 (t + m)) / pi of the target and (pi - 2 t) / pi of the others."""

    def logits(cosines: list[float], label: int, row: int) -> list[float]:
        angles = [math.acos(cos) + (margin_rad if c == label else 0.0) for c, cos in enumerate(cosines)]
        return [scale * (math.pi - 2 * angle) / math.pi for angle in angles]

    return logits


def curricularface(margin_rad: float, difficulty: float, scale: float) -> Logits:
    """Huang et al. 2020: a cosine above the moved target's becomes cos (t + cos)."""

    def logits(cosines: list[float], label: int, row: int) -> list[float]:
        own = arcface_target(cosines[label], margin_rad)
        hard = [cos * (difficulty + cos) if cos > own else cos for cos in cosines]
        return [scale * (own if c == label else cos) for c, cos in enumerate(hard)]

    return logits


def curricularface_difficulty(previous: float, cosines_of_target: Sequence[float]) -> float:
    """Huang et al. 2020: a running mean of the target's cosine."""
    return 0.01 * sum(cosines_of_target) / len(cosines_of_target) + 0.99 * previous


def adaface_quality(length: float, mean: float, deviation: float, concentration: float) -> float:
    """Kim et al. 2022: the norm in deviations from the mean, within 1; 0.001 as in the authors' code."""
    return max(-1.0, min(1.0, concentration * (length - mean) / (deviation + 1e-3)))


def adaface(margin: float, quality: Sequence[float], scale: float) -> Logits:
    """Kim et al. 2022: g_angle = -m z, g_add = m z + m."""

    def logits(cosines: list[float], label: int, row: int) -> list[float]:
        z = quality[row]
        angle = math.acos(cosines[label]) - margin * z
        own = math.cos(max(1e-3, min(math.pi - 1e-3, angle))) - (margin * z + margin)
        return [scale * (own if c == label else cos) for c, cos in enumerate(cosines)]

    return logits


def magface(
    embeddings: Sequence[Vector],
    labels: Sequence[int],
    prototypes: Prototypes,
    margins_rad: tuple[float, float],
    norms: tuple[float, float],
    norm_weight: float,
    scale: float,
) -> float:
    """Meng et al. 2021: m(a) linear between the bounds, g(a) = 1 / a + a / u^2."""
    (least, most), (low, high) = margins_rad, norms
    lengths = [max(low, min(high, norm(embedding))) for embedding in embeddings]

    def logits(cosines: list[float], label: int, row: int) -> list[float]:
        margin = (most - least) / (high - low) * (lengths[row] - low) + least
        return [scale * (arcface_target(cos, margin) if c == label else cos) for c, cos in enumerate(cosines)]

    pull = sum(1 / length + length / high**2 for length in lengths) / len(lengths)
    return softmax_loss(embeddings, labels, prototypes, logits) + norm_weight * pull


def elastic(target: Callable[[float, float], float], margins: Sequence[float], scale: float) -> Logits:
    """Boutros et al. 2022: each row has a margin of its own."""

    def logits(cosines: list[float], label: int, row: int) -> list[float]:
        return [scale * (target(cos, margins[row]) if c == label else cos) for c, cos in enumerate(cosines)]

    return logits


def adacos_first_scale(classes: int) -> float:
    """Zhang et al. 2019: the fixed scale."""
    return math.sqrt(2) * math.log(classes - 1)


def adacos_scale(embeddings: Sequence[Vector], labels: Sequence[int], prototypes: Prototypes, previous: float) -> float:
    """Zhang et al. 2019: the median is of the target's angles alone."""
    total, angles = 0.0, []
    for embedding, label in zip(embeddings, labels, strict=True):
        cosines = cosines_of(embedding, prototypes)
        total += sum(math.exp(previous * cos) for c, cos in enumerate(cosines) if c != label)
        angles.append(math.acos(cosines[label]))
    return math.log(total / len(labels)) / math.cos(min(math.pi / 4, statistics.median_low(angles)))


def cosine_margins(sizes: Sequence[int], smallest_class: float, largest_class: float) -> list[float]:
    """UniFEx: half a cosine of the class size, from the margin of the smallest class to that of the largest."""
    few, many = min(sizes), max(sizes)
    return [
        largest_class + (smallest_class - largest_class) / 2 * (1 + math.cos(math.pi * (n - few) / (many - few)))
        for n in sizes
    ]


def quartic_root_margins(sizes: Sequence[int], smallest_class: float, largest_class: float) -> list[float]:
    """Ha et al. 2020: linear in n^(-1/4) between the two."""
    roots = [n ** (-1 / 4) for n in sizes]
    return [
        (root - min(roots)) / (max(roots) - min(roots)) * (smallest_class - largest_class) + largest_class
        for root in roots
    ]
