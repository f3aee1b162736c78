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
_PASSES = 16  # with more positives a row than this, one sort takes less time than a pass over the negatives for each


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
    """Each of ``pairs``, which stand row after row, with its nearest semi-hard negative, where it has one."""
    bound, place = block.cosines_of(*pairs), place_in_row(pairs.row)
    several = int(place.max()) + 1 if len(place) else 0
    search = _in_passes if several <= _PASSES else _by_sorting
    column, cosine = search(block.negative_cosines, pairs.row, place, bound, several)
    inside = (cosine > -torch.inf) & (distance_of(cosine) < distance_of(bound) + margin_dist)
    return Triplets(pairs.row[inside], pairs.column[inside], column[inside])


def _in_passes(negatives: Tensor, row: Tensor, place: Tensor, bound: Tensor, several: int) -> tuple[Tensor, Tensor]:
    """The column and the cosine (T,) of the highest of ``negatives`` (b, R) below ``bound`` (T,); -inf for none."""
    column, cosine = torch.empty_like(row), torch.empty_like(bound)
    for number in range(several):
        pairs = (place == number).nonzero()[:, 0]
        cosines = negatives if len(pairs) == len(negatives) else negatives[row[pairs]]
        best = torch.where(cosines < bound[pairs, None], cosines, -torch.inf).max(1)
        column[pairs], cosine[pairs] = best.indices, best.values
    return column, cosine


def _by_sorting(negatives: Tensor, row: Tensor, place: Tensor, bound: Tensor, several: int) -> tuple[Tensor, Tensor]:
    """As :func:`_in_passes`."""
    ordered = negatives.neg().sort(stable=True)
    bounds = bound.new_zeros(len(negatives), several)
    bounds[row, place] = -bound
    first = torch.searchsorted(ordered.values, bounds, right=True)[row, place]
    exists = first < negatives.shape[1]
    first = first.clamp(max=negatives.shape[1] - 1)
    return ordered.indices[row, first], torch.where(exists, -ordered.values[row, first], -torch.inf)
