"""Trials: each recipe trained once for each fold and seed, and judged by the classes that it did not learn.

::

    training records --classes into folds--> train on F-1 parts, S seeds --> search the part left out, leave-one-out
                                             (small heads of one shape: many at once)      --> (F, S) scores

The features are in memory once, whatever is trained on them.
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
from cache.errors import DivergedError, RecordsError
from cache.fingerprint import JSON
from cache.settings import changed_settings
from stages.ranking.class_folds import class_folds
from stages.records import Records
from stages.training.multilabel import MultilabelHeadConfig, PosteriorHeadConfig
from stages.training.multilabel.labels import attributes_digest
from stages.training.recipe import HeadRecipe
from stages.training.rows import blocks_of, gather, rows_digest
from stages.training.rows.held_out import in_large_classes
from stages.training.sweep.batched_heads import heads_at_once, stack_key, train_stack
from stages.training.train import train_head

_TRIAL = 2  # raised when the same recipe gets another score

Values: TypeAlias = npt.NDArray[np.float64]
Judge = Callable[[npt.NDArray[np.float32], npt.NDArray[np.int64]], Values]
"""A value (n,) for each of the embeddings (n, E), searched in the others; their labels are numbers (n,)."""


@dataclass(frozen=True, eq=False)
class Trial:
    """What a recipe came to.

    Attributes:
        scores: (F, S), the mean over the queries of each fold for each seed (a closed form has one, the first); 0
            where the training diverged.
        values: (Q,) float32, the value of each query, the mean over the seeds.
        seconds: what it took, its share of the stack where it was trained in one.
        diverged: how many of the F*S trainings ended in a loss that is no number.
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
        """The rows (Q,) that search: those in a fold."""
        rows: npt.NDArray[np.int64] = np.flatnonzero(np.any(self.folds, axis=0))
        return rows

    @cached_property
    def query_keys(self) -> tuple[str, ...]:
        """The keys of the queries, (Q,)."""
        return tuple(self.records.take(self.queries).keys)

    @cached_property
    def rows(self) -> str:
        """The digest of which images with which labels these are."""
        return rows_digest(self.records)

    def fingerprint_of(self, recipe: HeadRecipe) -> str:
        """What a trial of ``recipe`` follows from besides the judge, 64 hexadecimal digits."""
        folds: list[JSON] = [digest_bytes(np.packbits(fold).tobytes()).hex() for fold in self.folds]
        learned: dict[str, JSON] = {}
        if isinstance(recipe.head, (MultilabelHeadConfig, PosteriorHeadConfig)):
            learned = {"attributes": attributes_digest(self.records)}
        return fingerprint(
            learned
            | {
                "trial": _TRIAL,
                "recipe": changed_settings(recipe),
                "features": self.features.fingerprint,
                "rows": self.rows,
                "folds": folds,
                "seeds": list(self.seeds),
            }
        )

    def raw(self) -> Trial:
        """The feature itself, judged in the same folds: scores (F, 1)."""
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
        """The trial of a recipe whose heads are trained one by one."""
        started, diverged = time.perf_counter(), 0
        seeds = self.seeds if recipe.is_trained else self.seeds[:1]  # nothing is drawn: one seed says it all
        values = np.zeros((len(seeds), len(self.labels)))
        training = recipe.training
        if (
            not training.patience and not training.anchor
        ):  # these choose, by classes that are neither trained nor judged
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
        """The trials of recipes of one stack."""
        started = time.perf_counter()
        values = np.zeros((len(recipes), len(self.seeds), len(self.labels)))
        diverged = np.zeros(len(recipes), np.int64)
        for fold in self.folds:
            rows = self._learned(fold, recipes[0])
            _, labels = np.unique(self.labels[rows], return_inverse=True)
            stacked = train_stack(
                self.vectors,
                torch.from_numpy(rows),
                torch.from_numpy(labels),
                recipes,
                self.seeds,
                blocks_of(self.features),
            )
            found = stacked.embed(self.vectors[torch.from_numpy(fold)])
            finite = stacked.finite & found.isfinite().all(-1).all(-1)
            for place, recipe in np.ndindex(len(self.seeds), len(recipes)):
                if finite[place, recipe]:
                    values[recipe, place, fold] = self.judge(found[place, recipe].numpy(), self.labels[fold])
                else:
                    diverged[recipe] += 1
        seconds = (time.perf_counter() - started) / len(recipes)
        return [self._trial(of, seconds, int(lost)) for of, lost in zip(values, diverged, strict=True)]


def cross_validation(
    features: Features, records: Records, judge: Judge, *, folds: int, seeds: Sequence[int], seed: int = 0
) -> CrossValidation:
    """Cut the classes of ``records`` into ``folds``, drawn from ``seed``, and read their features.

    Images whose extraction failed are left out.

    Args:
        features: the store that holds the features of ``records``.
        records: the training rows; every one has a label.
        judge: scores the embeddings of a fold, searched leave-one-out.
        folds: F, at least 2.
        seeds: S different seeds, with each of which every recipe is trained on every fold.
        seed: of the folds.

    Raises:
        RecordsError: a row without a label.
        ConfigError: fewer than two classes a fold.
        MissingRowsError: an image that was never extracted.
    """
    for key, label in zip(records.keys, records.classes, strict=True):
        if label is None:
            raise RecordsError(f"the training record {key!r} has no label: label it, or leave it out of training")
    there = records.take(records.rows_in(features))
    classes = [str(name) for name in there.classes]
    held = class_folds(classes, there.domains, folds, seed)
    _, labels = np.unique(np.array(classes, dtype=object), return_inverse=True)
    return CrossValidation(
        features, there, gather(features, there), labels.astype(np.int64), tuple(held), tuple(seeds), judge
    )


def run_trials(ground: CrossValidation, recipes: Sequence[HeadRecipe]) -> Iterator[tuple[int, Trial]]:
    """The trial of each of ``recipes`` with its place among them, as they are done: those of one shape together."""
    classes = max(len(np.unique(ground.labels[~fold])) for fold in ground.folds)
    together: dict[tuple[str, Hashable], list[int]] = {}
    for place, recipe in enumerate(recipes):
        key = stack_key(recipe, classes, ground.features.views)
        together.setdefault(("alone", place) if key is None else ("stack", key), []).append(place)
    for (how, _), places in together.items():
        if how == "alone":
            yield places[0], ground._alone(recipes[places[0]])
            continue
        size = heads_at_once(recipes[places[0]], len(ground.seeds), ground.vectors.shape[1], classes)
        for low in range(0, len(places), size):
            some = places[low : low + size]
            yield from zip(some, ground._together([recipes[place] for place in some]), strict=True)
