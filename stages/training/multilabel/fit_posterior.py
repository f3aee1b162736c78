"""Fit a posterior head: a point of the grid chosen by rows that are predicted without themselves, then all at it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from cache.errors import SettingsError
from stages.ranking import mean_average_precision
from stages.training.closed_form.statistics import check_dim, descending
from stages.training.heads.networks import Inputs
from stages.training.multilabel.kinds import PosteriorHeadConfig
from stages.training.multilabel.labels import Attributes
from stages.training.multilabel.posterior import PosteriorNetwork, Ridge, likeness, spread_rows, whitening_of

_JUDGED = 1024  # rows, at equal distances, that search each other when a point is judged


class Point(NamedTuple):
    """One value of each setting that is chosen."""

    root: float
    penalty: float
    temperature: float
    rest: float


def fit_posterior(
    config: PosteriorHeadConfig,
    features: Tensor,
    attributes: Attributes,
    targets: Sequence[Tensor],
    labels: Tensor,
    blocks: Sequence[int],
) -> tuple[PosteriorNetwork, str]:
    """The head of ``features`` (N, D), ``targets`` of their ``attributes``, and ``labels`` (N,); the point in words.

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
    values = itertools.product(config.roots, config.penalties, config.temperatures, config.rest)
    best, *others = grid = [Point(*each) for each in values]
    chosen = ""
    with torch.no_grad():
        tasks = {root: _Task(config, root, features, attributes, targets, blocks) for root in config.roots}
        if others:
            scores = _scores(tasks, grid, labels, labels if config.judged == "classes" else None)
            best = max(grid, key=lambda point: scores[point])
            chosen = f", by mAP {scores[best]:.3f} of images predicted without themselves"
        network = tasks[best.root].finish(best)
    return network, ", ".join(f"{name} {value:g}" for name, value in best._asdict().items()) + chosen


class _Regression(NamedTuple):
    """The attributes that the same rows have: one decomposition, and one product for all of their values."""

    ridge: Ridge
    known: Tensor  # the rows (N,)
    targets: Tensor  # theirs (K, C)
    columns: Tensor  # the places of the values among all S, (C,)


class _Task:
    """The training rows as the regressions of one ``root`` take them, these regressions, and what they become."""

    def __init__(
        self,
        config: PosteriorHeadConfig,
        root: float,
        features: Tensor,
        attributes: Attributes,
        targets: Sequence[Tensor],
        blocks: Sequence[int],
    ) -> None:
        self.config, learned = config, attributes.learned
        self.network = network = PosteriorNetwork(Inputs(replace(config.inputs, root=root), blocks), config.width)
        network.observe(features)
        network.sizes = torch.tensor([len(attribute.values) for attribute in learned])
        network.several = torch.tensor([int(attribute.several) for attribute in learned])
        network.factors = torch.tensor([config.weights.get(attribute.name, 1.0) ** 0.5 for attribute in learned])
        self.prepared = self.regressed = network.inputs(features)
        rows = self.prepared.double()
        self.back: Tensor | None = None  # what the map is multiplied by on the left: from coordinates to likenesses
        self.axes = torch.empty(0)  # the principal axes (D, R) that fill the rest, none where there is no room
        if config.kernel == "rbf":
            network.landmarks = self.prepared[spread_rows(len(rows), config.landmarks)]
            self.regressed = likeness(rows, network.landmarks.double(), config.width)
            if len(network.landmarks) < len(rows):
                self.back = whitening_of(network.landmarks.double(), config.width)
                self.regressed = self.regressed @ self.back
        if config.dim > attributes.width:
            self.axes = descending(rows.T @ rows)[1][:, : config.dim - attributes.width].float()
        self.regressions = self._regressions(targets)

    def _regressions(self, targets: Sequence[Tensor]) -> list[_Regression]:
        """Those onto ``targets``, the attributes with values in the same rows together."""
        products = self.config.kernel == "rbf" and self.back is None  # every row is a landmark: likenesses are products
        parts: dict[bytes, tuple[Tensor, list[Tensor], list[Tensor]]] = {}
        low = 0
        for target, width in zip(targets, self.network.sizes.tolist(), strict=True):
            known = target >= 0 if target.ndim == 1 else ~target[:, 0].isnan()
            _, indicators, columns = parts.setdefault(known.numpy().tobytes(), (known, [], []))
            values = target[known] if target.ndim == 2 else torch.nn.functional.one_hot(target[known], width)
            indicators.append(values.double())
            columns.append(torch.arange(low, low + width))
            low += width
        regressions = []
        for known, indicators, columns in parts.values():
            ridge = Ridge.of_products(self.regressed, known) if products else Ridge.of(self.regressed[known])
            regressions.append(_Regression(ridge, known, torch.cat(indicators, -1), torch.cat(columns)))
        return regressions

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
        network = self.network
        fits = [regression.ridge.fit(regression.targets, point.penalty) for regression in self.regressions]
        weight, bias = (torch.cat(several, -1) for several in zip(*fits, strict=True))
        order = torch.cat([regression.columns for regression in self.regressions]).argsort()
        weight = weight[:, order]
        network.weight = (weight if self.back is None else self.back @ weight).float()
        network.bias = bias[order].float()
        network.temperature = torch.tensor(point.temperature)
        if 0 < self.config.dim < len(network.bias):
            posteriors = network.posteriors(network.predict(self.prepared)).double()
            _, vectors = descending(posteriors.T @ posteriors)  # not about the mean: similarities are to stay
            network.turn = vectors[:, : self.config.dim].float()
        network.axes = self.axes * point.rest**0.5
        network.fill(dict(network.named_buffers(recurse=False)))
        return network


def _scores(
    tasks: dict[float, _Task], grid: Sequence[Point], labels: Tensor, groups: Tensor | None
) -> dict[Point, float]:
    """The mean average precision of each point, rows searching each other by what they are predicted left out."""
    some = spread_rows(len(labels), _JUDGED)
    pairs = {(point.root, point.penalty) for point in grid}
    predicted = {(root, penalty): tasks[root].left_out(penalty, groups)[some] for root, penalty in pairs}
    scores = {}
    for point in grid:
        task = tasks[point.root]
        task.network.temperature = torch.tensor(point.temperature)
        vectors = task.network.posteriors(predicted[point.root, point.penalty])
        if task.axes.numel():
            vectors = torch.cat([vectors, task.prepared[some] @ task.axes * point.rest**0.5], 1)
        scores[point] = mean_average_precision((vectors @ vectors.T).numpy(), labels[some].numpy())
    return scores
