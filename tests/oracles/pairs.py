"""Miners and losses on pairs written as loops over plain numbers, from their definitions: no tensor operation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

Vector = Sequence[float]
Triple = tuple[int, int, int]


def unit(vector: Vector) -> list[float]:
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


def dot(a: Vector, b: Vector) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def distance(a: Vector, b: Vector) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


@dataclass(frozen=True)
class Compared:
    """Rows 0 to B - 1 of ``vectors`` are a batch, the rest is memory; ``rows`` name the training rows."""

    vectors: list[list[float]]
    labels: list[int]
    rows: list[int]
    batch: int

    def positives(self, a: int) -> list[int]:
        return [r for r in self._others(a) if self.labels[r] == self.labels[a] and self.rows[r] != self.rows[a]]

    def negatives(self, a: int) -> list[int]:
        return [r for r in self._others(a) if self.labels[r] != self.labels[a]]

    def d(self, a: int, r: int) -> float:
        return distance(self.vectors[a], self.vectors[r])

    def c(self, a: int, r: int) -> float:
        return dot(self.vectors[a], self.vectors[r])

    def _others(self, a: int) -> list[int]:
        return [r for r in range(len(self.vectors)) if r != a]


def hard(of: Compared, positives: int, negatives: int) -> set[Triple]:
    found = set()
    for a in range(of.batch):
        far = sorted(of.positives(a), key=lambda p, a=a: -of.d(a, p))  # type: ignore[misc]
        near = sorted(of.negatives(a), key=lambda n, a=a: of.d(a, n))  # type: ignore[misc]
        far = far[:positives] if positives else far
        found |= {(a, p, n) for p in far for n in near[:negatives]}
    return found


def semi_hard(of: Compared, margin: float) -> set[Triple]:
    found = set()
    for a in range(of.batch):
        for p in of.positives(a):
            inside = [n for n in of.negatives(a) if of.d(a, p) < of.d(a, n) < of.d(a, p) + margin]
            if inside:
                found.add((a, p, min(inside, key=lambda n, a=a: of.d(a, n))))  # type: ignore[misc]
    return found


def easy_positives(of: Compared, margin: float | None) -> set[Triple]:
    """With a margin a semi-hard negative, without the nearest."""
    found = set()
    for a in range(of.batch):
        if not of.positives(a):
            continue
        p = min(of.positives(a), key=lambda r, a=a: of.d(a, r))  # type: ignore[misc]
        inside = of.negatives(a)
        if margin is not None:
            inside = [n for n in inside if of.d(a, p) < of.d(a, n) < of.d(a, p) + margin]
        if inside:
            found.add((a, p, min(inside, key=lambda n, a=a: of.d(a, n))))  # type: ignore[misc]
    return found


def inverse_density(of: Compared, a: int, nearest: float, farthest: float) -> list[float]:
    """The probability of each column as a negative of row ``a``; all 0 where none can be drawn."""
    dim = len(of.vectors[0])
    logs = {}
    for n in of.negatives(a):
        if of.d(a, n) <= farthest:
            d = max(of.d(a, n), nearest)
            logs[n] = (2 - dim) * math.log(d) - (dim - 3) / 2 * math.log(1 - d * d / 4)
    if not logs:
        return [0.0] * len(of.vectors)
    total = math.fsum(math.exp(log - max(logs.values())) for log in logs.values())
    return [math.exp(logs[n] - max(logs.values())) / total if n in logs else 0.0 for n in range(len(of.vectors))]


def all_triples(of: Compared) -> set[Triple]:
    return {(a, p, n) for a in range(of.batch) for p in of.positives(a) for n in of.negatives(a)}


def triplet(of: Compared, triples: set[Triple], margin: float) -> float:
    losses = [of.d(a, p) - of.d(a, n) + margin for a, p, n in sorted(triples)]
    above = [loss for loss in losses if loss > 0]
    return math.fsum(above) / len(above) if above else 0.0


def contrastive(of: Compared, near: float, far: float) -> float:
    positive = [of.d(a, p) - near for a in range(of.batch) for p in of.positives(a)]
    negative = [far - of.d(a, n) for a in range(of.batch) for n in of.negatives(a)]
    return sum(_mean_above_zero(losses) for losses in (positive, negative))


def _mean_above_zero(losses: list[float]) -> float:
    above = [loss for loss in losses if loss > 0]
    return math.fsum(above) / len(above) if above else 0.0


def margin(of: Compared, triples: set[Triple], margin: float, betas: Sequence[float], weight: float = 0.0) -> float:
    """``betas`` of each label, or one of all; ``weight`` is of beta in the loss."""
    losses, of_beta = [], 0.0
    for a, p, n in sorted(triples):
        beta = betas[of.labels[a]] if len(betas) > 1 else betas[0]
        losses += [margin + of.d(a, p) - beta, margin + beta - of.d(a, n)]
        of_beta += weight * beta
    above = [loss for loss in losses if loss > 0]
    value = math.fsum(above) / len(above)
    return value + (of_beta / len(above) if len(betas) > 1 else weight * betas[0])


def multi_similarity(of: Compared, a: float, b: float, threshold: float, slack: float) -> float:
    total = 0.0
    for row in range(of.batch):
        positives, negatives = of.positives(row), of.negatives(row)
        lowest = min((of.c(row, p) for p in positives), default=math.inf)
        highest = max((of.c(row, n) for n in negatives), default=-math.inf)
        positives = [p for p in positives if of.c(row, p) - slack < highest]
        negatives = [n for n in negatives if of.c(row, n) + slack > lowest]
        total += math.log(1 + math.fsum(math.exp(-a * (of.c(row, p) - threshold)) for p in positives)) / a
        total += math.log(1 + math.fsum(math.exp(b * (of.c(row, n) - threshold)) for n in negatives)) / b
    return total / of.batch


def supcon(of: Compared, scale: float) -> float:
    losses = []
    for row in range(of.batch):
        if positives := of.positives(row):
            every = positives + of.negatives(row)
            log_sum = math.log(math.fsum(math.exp(scale * of.c(row, r)) for r in every))
            losses.append(math.fsum(log_sum - scale * of.c(row, p) for p in positives) / len(positives))
    return math.fsum(losses) / len(losses)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def smooth_rank(of: Compared, row: int, place: int, among: Sequence[int], scale: float) -> float:
    return 1 + sum(sigmoid(scale * (of.c(row, r) - of.c(row, place))) for r in among if r != place)


def smooth_ap(of: Compared, scale: float) -> float:
    losses = []
    for row in range(of.batch):
        if positives := of.positives(row):
            every = positives + of.negatives(row)
            precision = [
                smooth_rank(of, row, p, positives, scale) / smooth_rank(of, row, p, every, scale) for p in positives
            ]
            losses.append(1 - sum(precision) / len(positives))
    return math.fsum(losses) / len(losses)


def recall(of: Compared, ks: Sequence[int], scale: float, rank_scale: float) -> float:
    losses = []
    for row in range(of.batch):
        if positives := of.positives(row):
            ranks = [smooth_rank(of, row, p, positives + of.negatives(row), scale) for p in positives]
            found = [sum(sigmoid(rank_scale * (k - r)) for r in ranks) / min(k, len(positives)) for k in ks]
            losses.append(1 - sum(found) / len(ks))
    return math.fsum(losses) / len(losses)


def range_loss(of: Compared, farthest: int, margin: float, within_weight: float, between_weight: float) -> float:
    within, centres = [], []
    for label in sorted({*of.labels}):
        members = [r for r in range(of.batch) if of.labels[r] == label]
        pairs = [(p, q) for p, q in combinations(members, 2) if of.rows[p] != of.rows[q]]
        widest = sorted((of.d(p, q) for p, q in pairs), reverse=True)[:farthest]
        if widest:
            within.append(len(widest) / sum(1 / d for d in widest))
        centres.append([sum(values) / len(members) for values in zip(*(of.vectors[r] for r in members), strict=True)])
    least = min((distance(p, q) for p, q in combinations(centres, 2)), default=margin)
    mean = sum(within) / len(within) if within else 0.0
    return within_weight * mean + between_weight * max(0.0, margin - least)


def proxy_nca(vectors: Sequence[Vector], labels: Sequence[int], proxies: Sequence[Vector], scale: float) -> float:
    losses = []
    for vector, label in zip(vectors, labels, strict=True):
        logits = [-scale * distance(unit(vector), unit(proxy)) ** 2 for proxy in proxies]
        losses.append(math.log(math.fsum(math.exp(logit) for logit in logits)) - logits[label])
    return math.fsum(losses) / len(losses)
