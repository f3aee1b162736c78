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


def hard(compared: Compared, positives: int, negatives: int) -> set[Triple]:
    results = set()
    for a in range(compared.batch):
        far = sorted(compared.positives(a), key=lambda p, a=a: -compared.d(a, p))  # type: ignore[misc]
        near = sorted(compared.negatives(a), key=lambda n, a=a: compared.d(a, n))  # type: ignore[misc]
        far = far[:positives] if positives else far
        results |= {(a, p, n) for p in far for n in near[:negatives]}
    return results


def semi_hard(compared: Compared, margin: float) -> set[Triple]:
    results = set()
    for a in range(compared.batch):
        for p in compared.positives(a):
            inside = [
                n for n in compared.negatives(a) if compared.d(a, p) < compared.d(a, n) < compared.d(a, p) + margin
            ]
            if inside:
                results.add((a, p, min(inside, key=lambda n, a=a: compared.d(a, n))))  # type: ignore[misc]
    return results


def easy_positives(compared: Compared, margin: float | None) -> set[Triple]:
    """With a margin a semi-hard negative, without the nearest."""
    results = set()
    for a in range(compared.batch):
        if not compared.positives(a):
            continue
        p = min(compared.positives(a), key=lambda r, a=a: compared.d(a, r))  # type: ignore[misc]
        inside = compared.negatives(a)
        if margin is not None:
            inside = [n for n in inside if compared.d(a, p) < compared.d(a, n) < compared.d(a, p) + margin]
        if inside:
            results.add((a, p, min(inside, key=lambda n, a=a: compared.d(a, n))))  # type: ignore[misc]
    return results


def inverse_density(compared: Compared, a: int, nearest: float, farthest: float) -> list[float]:
    """The probability of each column as a negative of row ``a``; all 0 where none can be drawn."""
    dim = len(compared.vectors[0])
    logs = {}
    for n in compared.negatives(a):
        if compared.d(a, n) <= farthest:
            d = max(compared.d(a, n), nearest)
            logs[n] = (2 - dim) * math.log(d) - (dim - 3) / 2 * math.log(1 - d * d / 4)
    if not logs:
        return [0.0] * len(compared.vectors)
    total = math.fsum(math.exp(log - max(logs.values())) for log in logs.values())
    return [math.exp(logs[n] - max(logs.values())) / total if n in logs else 0.0 for n in range(len(compared.vectors))]


def all_triples(compared: Compared) -> set[Triple]:
    return {(a, p, n) for a in range(compared.batch) for p in compared.positives(a) for n in compared.negatives(a)}


def triplet(compared: Compared, triples: set[Triple], margin: float) -> float:
    losses = [compared.d(a, p) - compared.d(a, n) + margin for a, p, n in sorted(triples)]
    above = [loss for loss in losses if loss > 0]
    return math.fsum(above) / len(above) if above else 0.0


def contrastive(compared: Compared, near: float, far: float) -> float:
    positive = [compared.d(a, p) - near for a in range(compared.batch) for p in compared.positives(a)]
    negative = [far - compared.d(a, n) for a in range(compared.batch) for n in compared.negatives(a)]
    return sum(_mean_above_zero(losses) for losses in (positive, negative))


def _mean_above_zero(losses: list[float]) -> float:
    above = [loss for loss in losses if loss > 0]
    return math.fsum(above) / len(above) if above else 0.0


def margin(
    compared: Compared, triples: set[Triple], margin: float, betas: Sequence[float], weight: float = 0.0
) -> float:
    """``betas`` of each label, or one of all; ``weight`` is of beta in the loss."""
    losses, of_beta = [], 0.0
    for a, p, n in sorted(triples):
        beta = betas[compared.labels[a]] if len(betas) > 1 else betas[0]
        losses += [margin + compared.d(a, p) - beta, margin + beta - compared.d(a, n)]
        of_beta += weight * beta
    above = [loss for loss in losses if loss > 0]
    value = math.fsum(above) / len(above)
    return value + (of_beta / len(above) if len(betas) > 1 else weight * betas[0])


def multi_similarity(compared: Compared, a: float, b: float, threshold: float, slack: float) -> float:
    total = 0.0
    for row in range(compared.batch):
        positives, negatives = compared.positives(row), compared.negatives(row)
        lowest = min((compared.c(row, p) for p in positives), default=math.inf)
        highest = max((compared.c(row, n) for n in negatives), default=-math.inf)
        positives = [p for p in positives if compared.c(row, p) - slack < highest]
        negatives = [n for n in negatives if compared.c(row, n) + slack > lowest]
        total += math.log(1 + math.fsum(math.exp(-a * (compared.c(row, p) - threshold)) for p in positives)) / a
        total += math.log(1 + math.fsum(math.exp(b * (compared.c(row, n) - threshold)) for n in negatives)) / b
    return total / compared.batch


def supcon(compared: Compared, scale: float) -> float:
    losses = []
    for row in range(compared.batch):
        if positives := compared.positives(row):
            every = positives + compared.negatives(row)
            log_sum = math.log(math.fsum(math.exp(scale * compared.c(row, r)) for r in every))
            losses.append(math.fsum(log_sum - scale * compared.c(row, p) for p in positives) / len(positives))
    return math.fsum(losses) / len(losses)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def smooth_rank(compared: Compared, row: int, place: int, among: Sequence[int], scale: float) -> float:
    return 1 + sum(sigmoid(scale * (compared.c(row, r) - compared.c(row, place))) for r in among if r != place)


def smooth_ap(compared: Compared, scale: float) -> float:
    losses = []
    for row in range(compared.batch):
        if positives := compared.positives(row):
            every = positives + compared.negatives(row)
            precision = [
                smooth_rank(compared, row, p, positives, scale) / smooth_rank(compared, row, p, every, scale)
                for p in positives
            ]
            losses.append(1 - sum(precision) / len(positives))
    return math.fsum(losses) / len(losses)


def recall(compared: Compared, ks: Sequence[int], scale: float, rank_scale: float) -> float:
    losses = []
    for row in range(compared.batch):
        if positives := compared.positives(row):
            ranks = [smooth_rank(compared, row, p, positives + compared.negatives(row), scale) for p in positives]
            results = [sum(sigmoid(rank_scale * (k - r)) for r in ranks) / min(k, len(positives)) for k in ks]
            losses.append(1 - sum(results) / len(ks))
    return math.fsum(losses) / len(losses)


def range_loss(compared: Compared, farthest: int, margin: float, within_weight: float, between_weight: float) -> float:
    within, centres = [], []
    for label in sorted({*compared.labels}):
        members = [r for r in range(compared.batch) if compared.labels[r] == label]
        pairs = [(p, q) for p, q in combinations(members, 2) if compared.rows[p] != compared.rows[q]]
        widest = sorted((compared.d(p, q) for p, q in pairs), reverse=True)[:farthest]
        if widest:
            within.append(len(widest) / sum(1 / d for d in widest))
        centres.append(
            [sum(values) / len(members) for values in zip(*(compared.vectors[r] for r in members), strict=True)]
        )
    least = min((distance(p, q) for p, q in combinations(centres, 2)), default=margin)
    mean = sum(within) / len(within) if within else 0.0
    return within_weight * mean + between_weight * max(0.0, margin - least)


def proxy_nca(vectors: Sequence[Vector], labels: Sequence[int], proxies: Sequence[Vector], scale: float) -> float:
    losses = []
    for vector, label in zip(vectors, labels, strict=True):
        logits = [-scale * distance(unit(vector), unit(proxy)) ** 2 for proxy in proxies]
        losses.append(math.log(math.fsum(math.exp(logit) for logit in logits)) - logits[label])
    return math.fsum(losses) / len(losses)
