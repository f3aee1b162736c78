"""Retrieval written again as slow loops, from the definitions: what the tests compare with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, permutations

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
    k_text, _, by = argument.partition("/")
    ranks = [rank for rank, hit in enumerate(hits, 1) if hit]
    k = int(k_text) if k_text.isdigit() else len(hits)
    if stem == "map_trapezoid":
        return trapezoids(ranks, num_relevant)
    if stem == "mrr":
        return 1 / ranks[0] if ranks and ranks[0] <= k else 0.0
    if stem == "ndcg":
        best = sum(1 / math.log2(rank + 1) for rank in range(1, num_relevant + 1) if rank <= k or not k_text)
        return sum(1 / math.log2(rank + 1) for rank in ranks if rank <= k) / best
    if stem == "mp":
        last = ranks[-1] if len(ranks) == num_relevant else math.inf
        upto = min(last, k)
        return sum(rank <= upto for rank in ranks) / upto
    if stem in ("map", "r_precision"):
        last_rank = num_relevant if argument == "r" or stem == "r_precision" else k
        seen, total = 0, 0.0
        for rank, hit in enumerate(hits[:last_rank], 1):
            if hit:
                seen += 1
                total += seen / rank
        divisor = {"min": min(num_relevant, k), "hits": seen or 1, "k": k}.get(by, num_relevant)
        return (seen if stem == "r_precision" else total) / divisor
    seen = 0
    for hit in hits[: min(k, num_relevant) if stem == "mmp" else k]:
        seen += hit
    return {
        "mmp": seen / min(k, num_relevant),
        "hit": float(seen > 0),
        "cmc": float(seen > 0),
        "recall": seen / num_relevant,
        "precision": seen / k,
    }[stem]


def trapezoids(ranks: Sequence[int], num_relevant: int) -> float:
    """The area under the curve of recall and precision, as the evaluation of Oxford 5k has it: ``ranks`` from 1."""
    area, recall, precision = 0.0, 0.0, 1.0
    seen = 0
    for rank in range(1, max(ranks, default=0) + 1):
        seen += rank in ranks
        new_recall, new_precision = seen / num_relevant, seen / rank
        area += (new_recall - recall) * (precision + new_precision) / 2
        recall, precision = new_recall, new_precision
    return area


def orders(similarity: list[int]) -> list[tuple[int, ...]]:
    """Every order of the rows in which the similarity does not rise."""
    rows = permutations(range(len(similarity)))
    return [order for order in rows if all(similarity[a] >= similarity[b] for a, b in pairwise(order))]
