"""Trials: each recipe trained once for each fold and seed, and scored on the classes that it did not learn.

::

    training records --classes into folds--> train on F-1 parts, S seeds --> search the part left out, leave-one-out
                                             (small heads of one shape: many at once)      --> (F, S) scores

The features are in memory once, for all trainings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
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
from stages.ranking.by_class import class_folds
from stages.records import Records
from stages.training.heads.networks import HeadNetwork
from stages.training.multilabel.kinds import MultilabelHeadConfig, PosteriorHeadConfig
from stages.training.multilabel.labels import attributes_digest
from stages.training.own_code import own_code
from stages.training.recipe import HeadRecipe
from stages.training.rows.labelled_rows import gather, in_training_order, numbered, rows_digest
from stages.training.sweep.batched_heads import batch_key, heads_at_once, train_batched_heads
from stages.training.text.kinds import TextHeadConfig
from stages.training.train import train_head
from stages.training.training_inputs import check_labels

_VERSION = 2  # raised when the same recipe gets another score

Values: TypeAlias = npt.NDArray[np.float64]
Heads: TypeAlias = Iterable[Sequence[HeadNetwork | None]]  # of each seed those of the recipes; None: it diverged
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
    def _rows(self) -> str:
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
                "rows": self._rows,
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

    def trials(self, recipes: Sequence[HeadRecipe]) -> list[Trial]:
        """The trials of one of :func:`trial_groups`: of recipes that are trained together, or of one."""
        started, first = time.perf_counter(), recipes[0]
        train: Callable[[Records, Sequence[HeadRecipe], Sequence[int]], Heads] = self._alone
        if batch_key(first, self.classes) is not None:
            train = partial(train_batched_heads, self.features)
        seeds = self.seeds if first.is_trained else self.seeds[:1]  # a closed form is the same for every seed
        values = np.zeros((len(recipes), len(seeds), len(self.labels)))
        diverged = np.zeros(len(recipes), np.int64)
        for fold in self.folds:
            records, held = self.records.take(np.flatnonzero(~fold)), self.vectors[torch.from_numpy(fold)].float()
            for place, heads in enumerate(train(records, recipes, seeds)):
                for recipe, head in enumerate(heads):
                    with torch.inference_mode():
                        embeddings = None if head is None else head(held)
                    if embeddings is None or not embeddings.isfinite().all():
                        diverged[recipe] += 1
                    else:
                        values[recipe, place, fold] = self.judge(embeddings.numpy(), self.labels[fold])
        seconds = (time.perf_counter() - started) / len(recipes)
        return [self._trial(by_seed, seconds, int(lost)) for by_seed, lost in zip(values, diverged, strict=True)]

    def _alone(self, records: Records, recipes: Sequence[HeadRecipe], seeds: Sequence[int]) -> Heads:
        (recipe,) = recipes
        if not recipe.training.patience and not recipe.training.anchor:  # these choose by held-out training classes
            recipe = replace(recipe, training=replace(recipe.training, holdout=0.0))
        for seed in seeds:
            try:
                head = train_head(self.features, records, recipe, seed=seed)
            except DivergedError:
                yield [None]
            else:
                yield [head.network]


def cross_validation(
    features: Features, records: Records, judge: Judge, *, folds: int, seeds: Sequence[int], seed: int = 0
) -> CrossValidation:
    """Cut the classes of the training ``records`` into ``folds`` by ``seed``, and read their features.

    Every recipe is trained with each of ``seeds`` on every fold. Images whose extraction failed are left out. Raises
    RecordsError for a row without a label, ConfigError for fewer than two classes a fold, and MissingRowsError for an
    image that was never extracted.
    """
    check_labels(records)
    extracted = in_training_order(records.take(records.rows_in(features)))
    held = class_folds([str(label) for label in extracted.labels], extracted.domains, folds, seed)
    labels, _ = numbered(extracted.classes)
    return CrossValidation(features, extracted, gather(features, extracted), labels, tuple(held), tuple(seeds), judge)


def run_trials(splits: CrossValidation, recipes: Sequence[HeadRecipe]) -> Iterator[tuple[int, Trial]]:
    """The trial of each of ``recipes`` with its index, as they finish; small heads of one shape together."""
    for group in trial_groups(splits, recipes):
        yield from zip(group, splits.trials([recipes[place] for place in group]), strict=True)


def trial_groups(splits: CrossValidation, recipes: Sequence[HeadRecipe], at_most: int | None = None) -> list[list[int]]:
    """The indices of ``recipes`` in groups that :meth:`CrossValidation.trials` takes, each ``at_most`` so many."""
    together: dict[Hashable, list[int]] = {}
    for place, recipe in enumerate(recipes):
        key = batch_key(recipe, splits.classes)
        together.setdefault(place if key is None else key, []).append(place)
    groups = []
    for places in together.values():
        size = 1
        if len(places) > 1:
            size = heads_at_once(recipes[places[0]], splits.vectors.shape[1], splits.classes)
            size = min(size, at_most or size)
        groups += [places[low : low + size] for low in range(0, len(places), size)]
    return groups
