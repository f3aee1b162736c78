"""Heads trained many at a time, against each trained alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cache import FeatureStore
from stages.records import Records
from stages.training import (
    AdaCosConfig,
    ArcFaceConfig,
    CosFaceConfig,
    CurricularFaceConfig,
    ElasticArcFaceConfig,
    LinearHeadConfig,
    MagFaceConfig,
    MarginByClassSize,
    SampledConfig,
    TrainingConfig,
    train_head,
)
from stages.training.recipe import HeadRecipe, LossConfig
from stages.training.rows.labelled_rows import in_training_order
from stages.training.sweep.batched_heads import batch_key, heads_at_once, train_batched_heads
from tests.toys.training import classes_of, toy

CLASSES = 10
SHORT = TrainingConfig(epochs=3, batch_size=32, holdout=0.0)  # 70 rows: the last batch of an epoch is smaller
BASE = HeadRecipe(LinearHeadConfig(dim=4), CosFaceConfig(scale=16.0), training=SHORT)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureStore, Records]:
    features, records = toy(tmp_path_factory.mktemp("toy"), classes_of(CLASSES, 7))
    return features, in_training_order(records)


def together(
    learned: tuple[FeatureStore, Records], recipes: list[HeadRecipe], seeds: list[int]
) -> list[list[np.ndarray[Any, np.dtype[np.float32]] | None]]:
    """The embeddings of all rows by each head, or None where it diverged: for each seed those of the recipes."""
    features, records = learned
    vectors = torch.from_numpy(np.asarray(features.read(records.digests)))
    return [
        [None if head is None else head(vectors).detach().numpy() for head in heads]
        for heads in train_batched_heads(features, records, recipes, seeds)
    ]


def alone(
    learned: tuple[FeatureStore, Records], recipe: HeadRecipe, seed: int
) -> np.ndarray[Any, np.dtype[np.float32]]:
    features, records = learned
    head = train_head(
        features,
        records,
        recipe,
        seed=seed,
    )
    return head(np.asarray(features.read(records.digests)))


SHARED: dict[str, dict[str, Any]] = {
    "cosface": {},
    "arcface": {"loss.kind": "arcface"},
    "subcenters": {"loss.kind": "arcface", "loss.subcenters": 3},
    "normface": {"loss.kind": "normface"},
    "sphereface": {"loss.kind": "sphereface"},
    "sgd": {"optimizer.kind": "sgd", "optimizer.lr": 0.1},
    "adamw": {"optimizer.kind": "adamw"},
    "several dropouts": {"dropouts": [0.1, 0.4]},
    "no dropout": {"dropout": 0.0},
    "root and unit length": {"inputs": {"root": 0.5, "unit": True, "center": True, "rescale": "unit"}},
    "balanced": {"training.sampling": {"kind": "balanced", "power": 0.5}},
}
MARGINS = {"cosface": "loss.margin_cos", "arcface": "loss.margin_rad", "sphereface": "loss.margin_factor"}


@pytest.mark.parametrize("name", SHARED)
def test_each_head_of_a_stack_is_the_one_that_is_trained_alone(
    learned: tuple[FeatureStore, Records], name: str
) -> None:
    base = BASE.with_settings(SHARED[name])
    assert base.loss is not None
    others: list[dict[str, Any]] = [
        {"loss.scale": 30.0, "optimizer.lr": 0.02, "optimizer.weight_decay": 0.01},
        {"loss.scale": {"start": 4.0, "end": 20.0}, "optimizer.warmup_epochs": 0.0},
    ]
    if (margin := MARGINS.get(base.loss.kind)) is not None:
        at = 1.0 if base.loss.kind == "sphereface" else 0.0
        others[0][margin] = at + 0.1
        others[1][margin] = {"start": at, "end": at + 0.5}
    recipes = [base, *(base.with_settings(other) for other in others)]
    assert len({batch_key(recipe, CLASSES) for recipe in recipes}) == 1
    seeds = [0, 3]
    stacked = together(learned, recipes, seeds)
    assert [len(heads) for heads in stacked] == [3, 3]
    for heads, seed in zip(stacked, seeds, strict=True):
        for head, recipe in zip(heads, recipes, strict=True):
            assert head is not None
            np.testing.assert_allclose(head, alone(learned, recipe, seed), rtol=0, atol=2e-5)
    first, second, _ = stacked[0]
    assert first is not None
    assert second is not None
    assert not np.allclose(first, second, atol=1e-3)  # they did become different heads


def test_a_head_that_diverges_is_told_and_leaves_its_neighbours_alone(learned: tuple[FeatureStore, Records]) -> None:
    sgd = BASE.with_settings({"optimizer.kind": "sgd", "optimizer.lr": 0.1})
    wild = sgd.with_settings({"optimizer.lr": 1e30, "optimizer.weight_decay": 1e10})
    ((calm, lost),) = together(learned, [sgd, wild], [0])
    assert lost is None
    ((expected,),) = together(learned, [sgd], [0])  # a stack of one
    assert calm is not None
    assert expected is not None
    np.testing.assert_allclose(calm, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "loss",
    [
        AdaCosConfig(),
        CurricularFaceConfig(),
        ElasticArcFaceConfig(),
        MagFaceConfig(),
        ArcFaceConfig(label_smoothing=0.1),
        ArcFaceConfig(precision="bfloat16"),
        ArcFaceConfig(sampled=SampledConfig()),
        ArcFaceConfig(margin_rad=MarginByClassSize(smallest_class=0.6, largest_class=0.2)),
    ],
)
def test_a_loss_that_learns_draws_or_moves_more_than_the_target_is_trained_alone(loss: LossConfig) -> None:
    assert batch_key(replace(BASE, loss=loss), CLASSES) is None


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "mlp"},
        {"nested": [2]},
        {"start": {"kind": "pca"}},
        {"training.ema": 0.9},
        {"training.sam_rho": 0.05},
        {"training.patience": 2},
        {"training.sampling": {"kind": "one_domain"}},
    ],
)
def test_a_recipe_with_more_than_the_plain_loop_is_trained_alone(settings: dict[str, Any]) -> None:
    assert batch_key(BASE.with_settings(settings), CLASSES) is None


def test_what_has_another_shape_goes_into_another_stack() -> None:
    same = ({"loss.scale": 9.0}, {"optimizer.lr": 0.1}, {"loss.margin_cos": 0.1}, {"optimizer.weight_decay": 0.0})
    other = ({"dim": 8}, {"loss.subcenters": 2}, {"training.epochs": 4}, {"optimizer.kind": "sgd"}, {"dropout": 0.0})
    key = batch_key(BASE, CLASSES)
    assert key is not None
    assert all(batch_key(BASE.with_settings(settings), CLASSES) == key for settings in same)
    assert not any(batch_key(BASE.with_settings(settings), CLASSES) == key for settings in other)


def test_large_heads_are_not_stacked_and_memory_bounds_how_many_small_ones_are() -> None:
    assert batch_key(BASE, 10**6) is None
    small = heads_at_once(BASE, features=1280, classes=98)
    large = heads_at_once(BASE, features=1280, classes=30_000)
    assert small > large >= 1
