"""Losses on distances: contrastive, triplet, margin, range. PyTorch Metric Learning has what the first three compute.

Its losses index a matrix of distances with the chosen pairs or triplets. These entries are looked up in a block of
cosines, so that no matrix of distances is made, and remembered embeddings need no code of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cache.errors import MissingExtraError
from stages.training.losses.angle import normalize
from stages.training.losses.kinds import value_at
from stages.training.pairs.block import Block, Pairs, distance_of, place_in_row, statistics_of, statistics_of_all
from stages.training.pairs.kinds import AllConfig, ContrastiveConfig, MarginConfig, RangeConfig, TripletConfig
from stages.training.pairs.loss import PairLoss
from stages.training.pairs.miners import pick
from stages.training.pairs.rows import PairRule, Sums

_ROUNDING = 1e-5  # of a cosine: what is no nearer than this beyond the margin is looked at too


def library() -> Any:
    """The library's module of losses. Raises MissingExtraError where it is not installed."""
    try:
        from pytorch_metric_learning import losses
    except ImportError as error:
        raise MissingExtraError("PyTorch Metric Learning", "pairs") from error
    return losses


class Distances:
    """The distances of a block, computed where they are indexed: ``distances[rows, columns]`` (T,)."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self.device, self.dtype = block.cosines.device, block.cosines.dtype

    def __getitem__(self, places: tuple[Tensor, Tensor]) -> Tensor:
        return distance_of(self._block.differentiable(*places))


def of_distances(loss: Any) -> Any:
    """``loss`` of the library, which is then given :class:`Distances` in place of embeddings."""
    loss.distance.forward = lambda distances, _: distances
    return loss


def losses_of(loss: Any, block: Block, chosen: tuple[Tensor, ...]) -> dict[str, Any]:
    """The parts, by name, of a ``loss`` :func:`of_distances`, for the ``chosen`` pairs of a block."""
    distances = Distances(block)
    parts: dict[str, Any] = loss.compute_loss(distances, block.labels, chosen, distances, torch.empty(0))
    return parts


class Contrastive(PairRule):
    """Two parts: positive pairs and negative pairs."""

    parts = 2

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.config = config
        self._loss: Any = library().ContrastiveLoss()
        self.at(0.0)

    def at(self, share: float) -> None:
        self._loss.pos_margin = value_at(self.config.positive_margin_dist, share)
        self._loss.neg_margin = value_at(self.config.margin_dist, share)

    def sums(self, block: Block) -> Sums:
        with torch.no_grad():
            if isinstance(self.config.miner, AllConfig):  # of all pairs those that can have a loss
                near = block.cosines > 1 - self._loss.neg_margin**2 / 2 - _ROUNDING  # d^2 = 2 - 2 c
                row, column = near.nonzero(as_tuple=True)
                other = block.labels[row] != block.against_labels[column]
                positive, negative = block.positives, Pairs(row[other], column[other])
            else:
                row, *columns = pick(self.config.miner, block, self._loss.neg_margin)
                positive, negative = (Pairs(row, column) for column in columns)
        cosines = block.differentiable(*positive), block.differentiable(*negative)
        per_pair = self._loss.get_per_pair_loss
        losses = per_pair(distance_of(cosines[0]), "pos"), per_pair(distance_of(cosines[1]), "neg")
        counts = torch.stack([(loss > 0).sum() for loss in losses]).to(block.cosines.dtype)
        totals = torch.stack([loss.sum() for loss in losses])
        if not isinstance(self.config.miner, AllConfig):
            chosen = len(positive.row) + len(negative.row)
            return Sums(totals, counts, statistics_of(chosen, chosen - counts.sum(), *cosines))
        pairs = float(block.cosines.numel() - len(block.self_pairs.row))
        return Sums(totals, counts, statistics_of_all(block, pairs, pairs - float(counts.sum())))


class Triplet(PairRule):
    """All triplets, or those of a miner."""

    def __init__(self, config: TripletConfig) -> None:
        super().__init__()
        self.config = config
        self._loss: Any = of_distances(library().TripletMarginLoss())
        self.at(0.0)

    def at(self, share: float) -> None:
        self._loss.margin = value_at(self.config.margin_dist, share)

    def sums(self, block: Block) -> Sums:
        if isinstance(self.config.miner, AllConfig):
            return all_triplets(block, self._loss.margin)
        with torch.no_grad():
            chosen = pick(self.config.miner, block, self._loss.margin)
        losses = block.cosines.new_zeros(0)
        if len(chosen.row):
            losses = losses_of(self._loss, block, chosen)["loss"]["losses"]
        count = (losses > 0).sum()
        statistics = statistics_of(len(losses), len(losses) - count, *block.cosines_of_triplets(chosen))
        return Sums(losses.sum()[None], count[None].to(losses.dtype), statistics)


def all_triplets(block: Block, margin_dist: float) -> Sums:
    """Every triplet of ``block``, in the time of a sort."""
    # Of a row with its negatives sorted by distance, d_1 <= d_2 <= ..., the triplets of a positive at distance p that
    # have a loss are those of the first k_p negatives, k_p = |{j: d_j < p + m}|. So the sum over triplets
    #
    #     sum_p sum_{j <= k_p} (p - d_j + m) = sum_p k_p p - sum_j r_j d_j + m sum_p k_p,   r_j = |{p: k_p >= j}|
    #
    # is one over pairs, with integer weights that autograd takes for constants: k_p is ``reach``, r_j ``reached``.
    row, positive = block.positives
    turn = place_in_row(row)
    near = distance_of(block.cosines_of(row, positive)) + margin_dist
    with torch.no_grad():
        ordered = distance_of(block.negative_cosines).masked_fill_(block.same_label, torch.inf).sort(stable=True)
        bounds = near.new_full((len(block.cosines), int(turn.max()) + 1 if len(turn) else 1), -torch.inf)
        bounds[row, turn] = near
        reach = torch.searchsorted(ordered.values, bounds)[row, turn]
        # how many positives of a row reach its negative in place j: those whose reach is above j
        beyond = reach.new_zeros(len(block.cosines), block.cosines.shape[1] + 1)
        beyond.view(-1).index_add_(0, row * beyond.shape[1] + reach, torch.ones_like(reach))
        reached = beyond.flip(1).cumsum(1).flip(1)[:, 1:]
        at_row, place = (reached > 0).nonzero(as_tuple=True)
    times = reached[at_row, place]
    negatives = distance_of(block.differentiable(at_row, ordered.indices[at_row, place]))
    count = reach.sum()
    positives = reach * distance_of(block.differentiable(row, positive))
    # in float64: the two sums nearly cancel
    total = positives.sum(dtype=torch.float64) - (times * negatives).sum(dtype=torch.float64) + margin_dist * count
    every = float((~block.same_label).sum(1)[row].sum())
    statistics = statistics_of_all(block, every, every - float(count))
    return Sums(total.to(near.dtype)[None], count[None].to(near.dtype), statistics)


class Margin(PairRule):
    """Two parts: the pairs, and the weight of beta."""

    parts = 2

    def __init__(self, config: MarginConfig, classes: int) -> None:
        super().__init__()
        self.config = config
        loss = library().MarginLoss(
            nu=config.beta_weight,
            beta=config.beta_dist,
            learn_beta=config.beta != "fixed",
            num_classes=classes if config.beta == "by_class" else None,
        )
        self.loss: Any = of_distances(loss)
        self.at(0.0)

    @property
    def beta(self) -> Tensor:
        beta: Tensor = self.loss.beta  # (1,) or (C,)
        return beta

    def at(self, share: float) -> None:
        self.loss.margin = value_at(self.config.margin_dist, share)

    def sums(self, block: Block) -> Sums:
        with torch.no_grad():
            chosen = pick(self.config.miner, block, self.loss.margin)
        positive, negative = block.cosines_of_triplets(chosen)
        losses, pairs = block.cosines.new_zeros(0), block.cosines.new_zeros(())
        if len(chosen.row):
            parts = losses_of(self.loss, block, chosen)["margin_loss"]
            losses, pairs = parts["losses"], parts["divisor"].to(block.cosines.dtype)
        both = 2 * len(chosen.row)
        statistics = statistics_of(both, both - float(pairs), positive, negative)
        # Beta itself adds once where there is one, for each triplet where there is one a class.
        if len(self.beta) == 1:
            count = pairs.new_tensor(float(len(block.cosines)))
            weight = self.config.beta_weight * self.beta[0] * count
        else:
            count, weight = pairs, self.config.beta_weight * self.beta[block.labels[chosen.row]].sum()
        return Sums(torch.stack([losses.sum(), weight]), torch.stack([pairs, count]), statistics)


class RangeLoss(PairLoss):
    """The widest spread of each class, and the nearest two class centres (Zhang et al., ICCV 2017, who square both)."""

    def __init__(self, config: RangeConfig) -> None:
        super().__init__()
        self.config = config
        self.at(0.0)

    def at(self, share: float) -> None:
        self._margin = value_at(self.config.margin_dist, share)

    def forward(self, embeddings: Tensor, labels: Tensor, rows: Tensor | None = None) -> Tensor:
        unit = normalize(embeddings)
        rows = torch.arange(len(labels), device=labels.device) if rows is None else rows
        _, class_of_row, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
        within, widest = _within(unit, class_of_row, rows, self.config.farthest)
        between, nearest = self._between(unit, class_of_row, sizes)
        zero = float(len(widest) == 0) + float(between == 0)
        self._statistics += statistics_of(2, zero, widest, nearest)
        return self.config.within_weight * within + self.config.between_weight * between

    def _between(self, unit: Tensor, class_of_row: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """The part between classes, and the cosine (1,) that goes with the least distance; (0,) for a single class."""
        if len(sizes) < 2:
            return unit.sum() * 0, unit.new_zeros(0)
        centres = unit.new_zeros(len(sizes), unit.shape[1]).index_add(0, class_of_row, unit) / sizes[:, None]
        with torch.no_grad():
            pairs = torch.triu_indices(len(sizes), len(sizes), 1, device=unit.device)
            one, other = pairs[:, torch.cdist(centres, centres)[pairs[0], pairs[1]].argmin()]
        least = torch.linalg.vector_norm(centres[one] - centres[other])
        return (self._margin - least).clamp(min=0), 1 - least.detach().square()[None] / 2


def _within(unit: Tensor, class_of_row: Tensor, rows: Tensor, farthest: int) -> tuple[Tensor, Tensor]:
    """The mean over classes of the harmonic means, and the cosines (n,) of the pairs that count, without gradient."""
    with torch.no_grad():
        pairs = (class_of_row[:, None] == class_of_row).triu(1).logical_and(rows[:, None] != rows).nonzero()
        classes, cosines = class_of_row[pairs[:, 0]], (unit @ unit.T)[pairs[:, 0], pairs[:, 1]]
        order = cosines.argsort(stable=True)
        order = order[classes[order].argsort(stable=True)]
        order = order[place_in_row(classes[order]) < farthest]
    if not len(order):
        return unit.sum() * 0, cosines[order]
    distances = distance_of((unit[pairs[order, 0]] * unit[pairs[order, 1]]).sum(1))
    _, place, counts = torch.unique(classes[order], return_inverse=True, return_counts=True)
    inverses = unit.new_zeros(len(counts)).index_add(0, place, 1 / distances)
    return (counts / inverses).mean(), cosines[order]
