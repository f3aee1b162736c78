"""Miners: which of the pairs a loss looks at."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.training.pairs.block import Block, Pairs, Triplets, distance_of, place_in_row
from stages.training.pairs.kinds import (
    DistanceWeightedConfig,
    EasyPositivesConfig,
    HardConfig,
    MinerConfig,
    SemiHardConfig,
)

_BELOW_ONE = 1 - 1e-9


def pick(miner: MinerConfig, block: Block, margin_dist: float) -> Triplets:
    """The triplets of ``block`` that ``miner`` takes for a loss of ``margin_dist``, which some have no use for."""
    margin_dist = getattr(miner, "margin_dist", None) or margin_dist
    match miner:
        case DistanceWeightedConfig():
            return _distance_weighted(miner, block)
        case EasyPositivesConfig():
            return _easy_positives(miner, block, margin_dist)
        case HardConfig():
            return _hard(miner, block)
        case SemiHardConfig():
            return _semi_hard(block, block.positives, margin_dist)


def _distance_weighted(miner: DistanceWeightedConfig, block: Block) -> Triplets:
    # A negative is drawn in proportion to its weight: where the running sum of weights passes a uniform number.
    sums = negative_weights(miner, block).cumsum(1, dtype=torch.float64)
    row, positive = block.positives
    drawable = sums[row, -1] > 0
    row, positive = row[drawable], positive[drawable]
    place = place_in_row(row)
    drawn = sums.new_zeros(len(sums), int(place.max()) + 1 if len(place) else 1)
    share = torch.rand(len(row), generator=block.generator, dtype=torch.float64, device="cpu").to(sums.device)
    drawn[row, place] = share.mul_(_BELOW_ONE) * sums[row, -1]
    negative = torch.searchsorted(sums, drawn, right=True)[row, place]
    return Triplets(row, positive, negative)


def negative_weights(miner: DistanceWeightedConfig, block: Block) -> Tensor:
    """The weight (b, R) of each negative, the largest of a row 1; 0 for what is never drawn."""
    distance = distance_of(block.negative_cosines)
    far = block.same_label | (distance > miner.farthest_dist)
    squared = distance.clamp_(miner.nearest_dist, miner.farthest_dist).square_()
    # log 1/q(d) = (2 - E) log d + (3 - E)/2 log(1 - d^2/4), and log d = log(d^2) / 2
    log = squared.log() * ((2 - block.dim) / 2) - (1 - squared / 4).log() * ((block.dim - 3) / 2)
    log.masked_fill_(far, -torch.inf)
    largest = log.amax(1, keepdim=True)
    return (log - torch.where(largest > -torch.inf, largest, 0.0)).exp_()


def _hard(miner: HardConfig, block: Block) -> Triplets:
    pairs = block.positives
    if miner.positives:
        pairs = _there(*_highest(block.cosines.neg().masked_fill(~block.is_positive, -torch.inf), miner.positives))
    return _with_nearest_negatives(block, pairs, miner.negatives)


def _easy_positives(miner: EasyPositivesConfig, block: Block, margin_dist: float) -> Triplets:
    pairs = _there(*_highest(block.cosines.masked_fill(~block.is_positive, -torch.inf), 1))
    if miner.negatives == "hard":
        return _with_nearest_negatives(block, pairs, 1)
    return _semi_hard(block, pairs, margin_dist)


def _highest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` highest of each row of ``values`` (b, R) and their columns, the first of equals."""
    if count == 1:  # many times as fast
        return values.max(1, keepdim=True)
    ordered = values.sort(descending=True, stable=True)
    return ordered.values[:, :count], ordered.indices[:, :count]


def _there(values: Tensor, columns: Tensor) -> Pairs:
    """The rows and the ``columns`` (b, n) of ``values`` (b, n) that are not -inf."""
    row, place = (values > -torch.inf).nonzero(as_tuple=True)
    return Pairs(row, columns[row, place])


def _with_nearest_negatives(block: Block, pairs: Pairs, count: int) -> Triplets:
    """Each of ``pairs`` with each of the ``count`` nearest negatives of its row, or as many as there are."""
    cosines, columns = _highest(block.negative_cosines, count)
    pair, negative = _there(cosines[pairs.row], columns[pairs.row])
    return Triplets(pairs.row[pair], pairs.column[pair], negative)


def _semi_hard(block: Block, pairs: Pairs, margin_dist: float) -> Triplets:
    """Each of ``pairs``, which stand row after row, with its nearest semi-hard negative, where it has one.

    A pass takes one pair of each row: there are few positives a row.
    """
    bound, place = block.cosines_of(*pairs), place_in_row(pairs.row)
    column, cosine = torch.empty_like(pairs.row), torch.empty_like(bound)
    for number in range(int(place.max()) + 1 if len(place) else 0):
        some = (place == number).nonzero()[:, 0]
        cosines = block.negative_cosines
        cosines = cosines if len(some) == len(cosines) else cosines[pairs.row[some]]
        cosine[some], column[some] = torch.where(cosines < bound[some, None], cosines, -torch.inf).max(1)
    inside = (cosine > -torch.inf) & (distance_of(cosine) < distance_of(bound) + margin_dist)
    return Triplets(pairs.row[inside], pairs.column[inside], column[inside])
