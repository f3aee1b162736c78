"""Fit a posterior head: a point of the grid chosen by rows that are predicted without themselves, then all at it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from cache.errors import SettingsError
from stages.ranking import mean_average_precision
from stages.training.closed_form.eigen import descending
from stages.training.closed_form.statistics import check_dim
from stages.training.heads.inputs import Inputs
from stages.training.multilabel.kinds import PosteriorHeadConfig
from stages.training.multilabel.labels import Attribute, Attributes
from stages.training.multilabel.posterior import FITTED, PosteriorNetwork
from stages.training.multilabel.ridge import Ridge, likeness, spread_rows, whitening_of

_JUDGED = 1024  # rows, at equal distances, that search each other when a point is judged


class Fitted(NamedTuple):
    """A head, the point of the grid that it is at, and its mean average precision; None where nothing was chosen."""

    network: PosteriorNetwork
    point: Point
    score: float | None

    @property
    def summary(self) -> str:
        """The point in words."""
        point = ", ".join(f"{name} {value:g}" for name, value in self.point._asdict().items())
        if self.score is None:
            return point
        return f"{point}, by mAP {self.score:.3f} of images predicted without themselves"


class Point(NamedTuple):
    """One value of each setting that is chosen."""

    root: float
    penalty: float
    temperature: float
    rest: float


class _Regression(NamedTuple):
    """The attributes that the same rows have: one decomposition, and one product for all of their values.

    ``known`` (N,) are the rows, ``targets`` (K, C) theirs, and ``columns`` (C,) the places of the values among all S.
    """

    ridge: Ridge
    known: Tensor
    targets: Tensor
    columns: Tensor


@dataclass(frozen=True, eq=False)
class _Task:
    """The training rows as the regressions of one root take them, and these regressions."""

    config: PosteriorHeadConfig
    network: PosteriorNetwork
    prepared: Tensor
    regressed: Tensor
    back: Tensor | None
    """What the map of the regression is multiplied by on the left: from coordinates to likenesses."""
    regressions: list[_Regression]
    axes: Tensor
    """The principal axes (D, R) that fill the rest, none where there is no room."""

    def left_out(self, penalty: float, groups: Tensor | None) -> Tensor:
        """What each row (N, S) is predicted without itself, or its group; rows without a value by all that have one."""
        every = torch.empty(len(self.regressed), int(self.network.sizes.sum()))
        for ridge, known, targets, columns in self.regressions:
            predicted = torch.empty(len(every), len(columns), dtype=torch.float64)
            predicted[known] = ridge.left_out(targets, penalty, None if groups is None else groups[known])
            if not known.all():
                weight, bias = ridge.fit(targets, penalty)
                predicted[~known] = self.regressed[~known].double() @ weight + bias
            every[:, columns] = predicted.float()
        return every

    def finish(self, point: Point) -> PosteriorNetwork:
        """The network at ``point``."""
        network = self.network
        fits = [regression.ridge.fit(regression.targets, point.penalty) for regression in self.regressions]
        weight, bias = (torch.cat(several, -1) for several in zip(*fits, strict=True))
        order = torch.cat([regression.columns for regression in self.regressions]).argsort()
        weight = weight[:, order]
        network.weight = (weight if self.back is None else self.back @ weight).float()
        network.bias = bias[order].float()
        network.temperature = torch.tensor(point.temperature)
        width = len(network.bias)
        if 0 < self.config.dim < width:
            posteriors = network.posteriors(network.predict(self.prepared)).double()
            _, vectors = descending(posteriors.T @ posteriors)  # not about the mean: similarities are to stay
            network.turn = vectors[:, : self.config.dim].float()
        network.axes = self.axes * point.rest**0.5
        for name in FITTED:  # as they are saved and loaded: products of slices have other last bits
            setattr(network, name, getattr(network, name).contiguous())
        return network


def fit_posterior(
    config: PosteriorHeadConfig,
    features: Tensor,
    attributes: Attributes,
    targets: Sequence[Tensor],
    labels: Tensor,
    blocks: Sequence[int],
) -> Fitted:
    """The head of training ``features`` (N, D), the ``targets`` of their ``attributes``, and ``labels`` (N,).

    Raises ValueError where ``dim`` is more than posteriors and principal axes can give, or a weight is of no attribute
    that is learned.
    """
    names = [attribute.name for attribute in attributes.learned]
    for name in config.weights:
        if name not in [*names, *attributes.left_out]:
            raise SettingsError(f"weights names {name!r}; the attributes that are learned are {', '.join(names)}")
    if not any(config.weights.get(name, 1.0) for name in names):
        raise SettingsError(f"every attribute ({', '.join(names)}) has the weight 0: nothing would be similar")
    most = attributes.width + min(features.shape)
    check_dim(config.dim, most, f"{attributes.width:,} values and {min(features.shape):,} principal axes")
    grid = [
        Point(*values) for values in itertools.product(config.roots, config.penalties, config.temperatures, config.rest)
    ]
    with torch.no_grad():
        tasks = {root: _task(config, root, features, attributes, targets, blocks) for root in config.roots}
        if len(grid) == 1:
            return Fitted(tasks[grid[0].root].finish(grid[0]), grid[0], None)
        scores = _scores(tasks, grid, labels, labels if config.judged == "classes" else None)
        best = max(grid, key=lambda point: scores[point])
        return Fitted(tasks[best.root].finish(best), best, scores[best])


def _task(
    config: PosteriorHeadConfig,
    root: float,
    features: Tensor,
    attributes: Attributes,
    targets: Sequence[Tensor],
    blocks: Sequence[int],
) -> _Task:
    network = PosteriorNetwork(Inputs(replace(config.inputs, root=root), blocks), config.width)
    network.observe(features)
    learned = attributes.learned
    network.sizes = torch.tensor([len(attribute.values) for attribute in learned])
    network.several = torch.tensor([int(attribute.several) for attribute in learned])
    network.factors = torch.tensor([config.weights.get(attribute.name, 1.0) ** 0.5 for attribute in learned])
    prepared = regressed = network.inputs(features)
    back = None
    if config.kernel == "rbf":
        rows = prepared.double()
        network.landmarks = prepared[spread_rows(len(prepared), config.landmarks)]
        regressed = likeness(rows, network.landmarks.double(), config.width)
        if len(network.landmarks) < len(rows):
            back = whitening_of(network.landmarks.double(), config.width)
            regressed = regressed @ back
    products = config.kernel == "rbf" and back is None  # every row is a landmark: likenesses are products
    axes = torch.empty(0)
    if config.dim > attributes.width:
        rows = prepared.double()
        axes = descending(rows.T @ rows)[1][:, : config.dim - attributes.width].float()
    return _Task(config, network, prepared, regressed, back, _regressions(regressed, products, learned, targets), axes)


def _regressions(
    regressed: Tensor, products: bool, learned: Sequence[Attribute], targets: Sequence[Tensor]
) -> list[_Regression]:
    """The ``learned`` attributes, those with values in the same rows together."""
    parts: dict[bytes, list[tuple[Tensor, Tensor]]] = {}
    masks: dict[bytes, Tensor] = {}
    low = 0
    for target, attribute in zip(targets, learned, strict=True):
        width = len(attribute.values)
        known = target >= 0 if target.ndim == 1 else ~target[:, 0].isnan()
        indicators = target[known] if target.ndim == 2 else torch.nn.functional.one_hot(target[known], width)
        masks[key := known.numpy().tobytes()] = known
        parts.setdefault(key, []).append((indicators.double(), torch.arange(low, low + width)))
        low += width
    regressions = []
    for key, several in parts.items():
        known = masks[key]
        ridge = Ridge.of_products(regressed, known) if products else Ridge.of(regressed[known])
        indicators, columns = (torch.cat(part, -1) for part in zip(*several, strict=True))
        regressions.append(_Regression(ridge, known, indicators, columns))
    return regressions


def _scores(
    tasks: dict[float, _Task], grid: Sequence[Point], labels: Tensor, groups: Tensor | None
) -> dict[Point, float]:
    """The mean average precision of each point, rows searching each other by what they are predicted left out."""
    some = spread_rows(len(labels), _JUDGED)
    predicted = {
        (root, penalty): tasks[root].left_out(penalty, groups)[some]
        for root, penalty in {(p.root, p.penalty) for p in grid}
    }
    scores = {}
    for point in grid:
        task = tasks[point.root]
        task.network.temperature = torch.tensor(point.temperature)
        vectors = task.network.posteriors(predicted[point.root, point.penalty])
        if task.axes.numel():
            vectors = torch.cat([vectors, task.prepared[some] @ task.axes * point.rest**0.5], 1)
        scores[point] = mean_average_precision((vectors @ vectors.T).numpy(), labels[some].numpy())
    return scores
