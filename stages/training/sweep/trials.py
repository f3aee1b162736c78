"""Trials: each recipe trained once for each fold and seed, and scored on the classes that it did not learn.

::

    training records --classes into folds--> train on F-1 parts, S seeds --> search the part left out, leave-one-out
                                             (small heads of one shape: many at once)      --> (F, S) scores

The features are in memory once, for all trainings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cache import Features, digest_bytes, fingerprint
from cache.errors import DivergedError
from cache.features import numbers_fingerprint
from cache.fingerprint import JSON
from cache.settings import changed_settings
from stages.ranking.class_folds import class_folds
from stages.records import Records
from stages.training.multilabel.kinds import MultilabelHeadConfig, PosteriorHeadConfig
from stages.training.multilabel.labels import attributes_digest
from stages.training.own_code import own_code
from stages.training.recipe import HeadRecipe
from stages.training.rows.held_out import in_large_classes
from stages.training.rows.labelled_rows import blocks_of, gather, in_training_order, rows_digest
from stages.training.sweep.batched_heads import batch_key, heads_at_once, train_batched_heads
from stages.training.text.kinds import TextHeadConfig
from stages.training.train import train_head
from stages.training.training_inputs import check_labels

_VERSION = 2  # raised when the same recipe gets another score

Values: TypeAlias = npt.NDArray[np.float64]
Judge = Callable[[npt.NDArray[np.float32], npt.NDArray[np.int64]], Values]
"""A value (n,) for each of the embeddings (n, E), searched in the others; their labels are numbers (n,)."""


@dataclass(frozen=True, eq=False)
class Trial:
    """The scores of a recipe.

    Attributes:
        scores: (F, S), the mean over the queries of each fold for each seed (a closed form has one, the first); 0
            where the training diverged.
        values: (Q,) float32, the value of each query, the mean over the seeds.
        seconds: the time it took; where recipes were trained together, its share of it.
        diverged: how many of the F*S trainings ended in a loss that is NaN or infinite.
    """

    scores: Values
    values: npt.NDArray[np.float32]
    seconds: float
    diverged: int = 0


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """The training records of one store in folds, their features (N, D) in memory; made by :func:`cross_validation`."""

    features: Features
    records: Records
    vectors: Tensor
    labels: npt.NDArray[np.int64]
    folds: tuple[npt.NDArray[np.bool_], ...]
    seeds: tuple[int, ...]
    judge: Judge

    @cached_property
    def queries(self) -> npt.NDArray[np.int64]:
        """The rows (Q,) that are queries: those in a fold."""
        rows: npt.NDArray[np.int64] = np.flatnonzero(np.any(self.folds, axis=0))
        return rows

    @cached_property
    def query_keys(self) -> tuple[str, ...]:
        """The keys of the queries, (Q,)."""
        return tuple(self.records.take(self.queries).keys)

    @cached_property
    def classes(self) -> int:
        """The most classes that are trained on when a fold is held out."""
        return max(len(np.unique(self.labels[~fold])) for fold in self.folds)

    @cached_property
    def rows(self) -> str:
        """The digest of the images and their labels."""
        return rows_digest(self.records)

    def fingerprint_of(self, recipe: HeadRecipe) -> str:
        """The fingerprint of everything that a trial of ``recipe`` follows from besides the judge."""
        folds: list[JSON] = [digest_bytes(np.packbits(fold).tobytes()).hex() for fold in self.folds]
        learned: dict[str, JSON] = {}
        if isinstance(recipe.head, (MultilabelHeadConfig, PosteriorHeadConfig, TextHeadConfig)):
            learned = {"attributes": attributes_digest(self.records)}
        if code := own_code(recipe):
            learned["code"] = code
        return fingerprint(
            learned
            | {
                "trial": _VERSION,
                "recipe": changed_settings(recipe),
                "features": self.features.fingerprint,
                "numbers": numbers_fingerprint(self.features, self.records.digests),
                "rows": self.rows,
                "folds": folds,
                "seeds": list(self.seeds),
            }
        )

    def raw(self) -> Trial:
        """The trial of the feature itself in the same folds: scores (F, 1)."""
        started = time.perf_counter()
        values = np.zeros(len(self.labels))
        for fold in self.folds:
            values[fold] = self.judge(self.vectors[torch.from_numpy(fold)].float().numpy(), self.labels[fold])
        return self._trial(values[None], time.perf_counter() - started, 0)

    def _trial(self, values: Values, seconds: float, diverged: int) -> Trial:
        """``values`` are (S, N)."""
        scores = np.array([values[:, fold].mean(1) for fold in self.folds])
        return Trial(scores, values[:, self.queries].mean(0).astype(np.float32), seconds, diverged)

    def _learned(self, fold: npt.NDArray[np.bool_], recipe: HeadRecipe) -> npt.NDArray[np.int64]:
        """The rows that are trained on when ``fold`` is held out."""
        outside = np.flatnonzero(~fold)
        large = in_large_classes([str(label) for label in self.labels[outside]], recipe.training.minimum_class_size)
        return outside[large]

    def _alone(self, recipe: HeadRecipe) -> Trial:
        """The trial of a recipe, its heads trained one by one."""
        started, diverged = time.perf_counter(), 0
        seeds = self.seeds if recipe.is_trained else self.seeds[:1]  # a closed form is the same for every seed
        values = np.zeros((len(seeds), len(self.labels)))
        training = recipe.training
        if not training.patience and not training.anchor:  # these choose by held-out training classes
            training = replace(training, holdout=0.0)
        for fold in self.folds:
            learned = self.records.take(self._learned(fold, recipe))
            held = self.vectors[torch.from_numpy(fold)].numpy()
            for place, seed in enumerate(seeds):
                try:
                    head = train_head(self.features, learned, replace(recipe, training=training), seed=seed)
                except DivergedError:
                    diverged += 1
                else:
                    values[place, fold] = self.judge(head(held), self.labels[fold])
        return self._trial(values, time.perf_counter() - started, diverged)

    def _together(self, recipes: Sequence[HeadRecipe]) -> list[Trial]:
        """The trials of recipes that are trained together."""
        started = time.perf_counter()
        values = np.zeros((len(recipes), len(self.seeds), len(self.labels)))
        diverged = np.zeros(len(recipes), np.int64)
        for fold in self.folds:
            rows = self._learned(fold, recipes[0])
            _, labels = np.unique(self.labels[rows], return_inverse=True)
            trained = train_batched_heads(
                self.vectors,
                torch.from_numpy(rows),
                torch.from_numpy(labels),
                recipes,
                self.seeds,
                blocks_of(self.features),
            )
            embeddings = trained.embed(self.vectors[torch.from_numpy(fold)])
            finite = trained.finite & embeddings.isfinite().all(-1).all(-1)
            for place, recipe in np.ndindex(len(self.seeds), len(recipes)):
                if finite[place, recipe]:
                    values[recipe, place, fold] = self.judge(embeddings[place, recipe].numpy(), self.labels[fold])
                else:
                    diverged[recipe] += 1
        seconds = (time.perf_counter() - started) / len(recipes)
        return [self._trial(by_seed, seconds, int(lost)) for by_seed, lost in zip(values, diverged, strict=True)]


def cross_validation(
    features: Features, records: Records, judge: Judge, *, folds: int, seeds: Sequence[int], seed: int = 0
) -> CrossValidation:
    """Cut the classes of ``records`` into ``folds`` by ``seed``, and read their features.

    Images whose extraction failed are left out.

    Args:
        features: the store that holds the features of ``records``.
        records: the training rows; every one has a label.
        judge: scores the embeddings of a fold, as in a leave-one-out search.
        folds: F, at least 2.
        seeds: S different seeds; every recipe is trained with each on every fold.
        seed: of the folds.

    Raises:
        RecordsError: a row without a label.
        ConfigError: fewer than two classes a fold.
        MissingRowsError: an image that was never extracted.
    """
    check_labels(records)
    extracted = in_training_order(records.take(records.rows_in(features)))
    classes = [str(name) for name in extracted.classes]
    held = class_folds([str(label) for label in extracted.labels], extracted.domains, folds, seed)
    _, labels = np.unique(np.array(classes, dtype=object), return_inverse=True)
    return CrossValidation(
        features, extracted, gather(features, extracted), labels.astype(np.int64), tuple(held), tuple(seeds), judge
    )


def run_trials(splits: CrossValidation, recipes: Sequence[HeadRecipe]) -> Iterator[tuple[int, Trial]]:
    """The trial of each of ``recipes`` with its index, as they finish; small heads of one shape together."""
    for group in trial_groups(splits, recipes):
        yield from zip(group, run_group(splits, [recipes[place] for place in group]), strict=True)


def trial_groups(splits: CrossValidation, recipes: Sequence[HeadRecipe], at_most: int | None = None) -> list[list[int]]:
    """The indices of ``recipes`` in groups that :func:`run_group` takes, each ``at_most`` so many."""
    together: dict[tuple[str, Hashable], list[int]] = {}
    for place, recipe in enumerate(recipes):
        key = batch_key(recipe, splits.classes, splits.features.views)
        together.setdefault(("alone", place) if key is None else ("together", key), []).append(place)
    groups = []
    for (how, _), places in together.items():
        size = 1
        if how == "together":
            size = heads_at_once(recipes[places[0]], len(splits.seeds), splits.vectors.shape[1], splits.classes)
            size = min(size, at_most or size)
        groups += [places[low : low + size] for low in range(0, len(places), size)]
    return groups


def run_group(splits: CrossValidation, recipes: Sequence[HeadRecipe]) -> list[Trial]:
    """The trials of one of :func:`trial_groups`."""
    if batch_key(recipes[0], splits.classes, splits.features.views) is None:
        return [splits._alone(recipes[0])]
    return splits._together(recipes)
