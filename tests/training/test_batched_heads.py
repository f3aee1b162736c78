"""Heads trained many at a time, against each trained alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

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
    SphereFaceConfig,
    TrainingConfig,
    train_head,
)
from stages.training.losses.settings import MarginSoftmaxConfig
from stages.training.recipe import HeadRecipe, LossConfig
from stages.training.rows.labelled_rows import gather, in_training_order
from stages.training.sweep.batched_heads import batch_key, heads_at_once, train_batched_heads
from stages.training.sweep.batched_losses import BatchedLoss
from tests.toys.training import classes_of, toy

CLASSES = 10
SHORT = TrainingConfig(epochs=3, batch_size=32, holdout=0.0)  # 70 rows: the last batch of an epoch is smaller
BASE = HeadRecipe(LinearHeadConfig(dim=4), CosFaceConfig(scale=16.0), training=SHORT)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureStore, Records]:
    features, records = toy(tmp_path_factory.mktemp("toy"), classes_of(CLASSES, 7))
    return features, in_training_order(records)


def rows_of(learned: tuple[FeatureStore, Records]) -> tuple[Tensor, Tensor]:
    """Features and labels, the labels numbered by hand in the order of their names."""
    features, records = learned
    names = sorted({str(name) for name in records.classes})
    return gather(features, records), torch.tensor([names.index(str(name)) for name in records.classes])


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
    features, labels = rows_of(learned)
    seeds = [0, 3]
    stacked = train_batched_heads(features, torch.arange(len(features)), labels, recipes, seeds)
    assert stacked.finite.all()
    embeddings = stacked.embed(features)
    assert embeddings.shape == (2, 3, 70, 4)
    for place, seed in enumerate(seeds):
        for number, recipe in enumerate(recipes):
            expected = alone(learned, recipe, seed)
            np.testing.assert_allclose(embeddings[place, number], expected, rtol=0, atol=2e-5)
    assert (embeddings[0, 0] - embeddings[0, 1]).abs().max() > 1e-3  # they did become different heads


def test_a_stack_learns_from_the_rows_it_is_given_and_no_others(learned: tuple[FeatureStore, Records]) -> None:
    features, labels = rows_of(learned)
    rows = (labels >= 4).nonzero()[:, 0]
    store, records = learned
    expected = alone((store, records.take(rows.numpy())), BASE, 1)
    stacked = train_batched_heads(features, rows, labels[rows] - 4, [BASE], [1])
    np.testing.assert_allclose(stacked.embed(features[rows])[0, 0], expected, rtol=0, atol=2e-5)


def test_a_head_that_diverges_is_told_and_leaves_its_neighbours_alone(learned: tuple[FeatureStore, Records]) -> None:
    features, labels = rows_of(learned)
    rows = torch.arange(len(features))
    sgd = BASE.with_settings({"optimizer.kind": "sgd", "optimizer.lr": 0.1})
    wild = sgd.with_settings({"optimizer.lr": 1e30, "optimizer.weight_decay": 1e10})
    stacked = train_batched_heads(features, rows, labels, [sgd, wild], [0])
    assert stacked.finite.tolist() == [[True, False]]
    calm = train_batched_heads(features, rows, labels, [sgd], [0])
    torch.testing.assert_close(stacked.embed(features)[0, 0], calm.embed(features)[0, 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "configs",
    [
        [
            ArcFaceConfig(margin_rad=0.2, scale=8.0, subcenters=2),
            ArcFaceConfig(margin_rad=0.7, scale=30.0, subcenters=2),
        ],
        [CosFaceConfig(margin_cos=0.0), CosFaceConfig(margin_cos=0.4, scale=64.0)],
        [SphereFaceConfig(margin_factor=1.0), SphereFaceConfig(margin_factor=2.0, scale=12.0)],
    ],
)
def test_stacked_losses_and_gradients_are_those_of_the_kernel(configs: list[MarginSoftmaxConfig]) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes, seeds, size, dim = torch.tensor([4, 3, 5]), 2, 6, 5
    heads = seeds * len(configs)
    labels = torch.randint(3, (heads, size), generator=generator)
    embeddings = torch.randn(heads, size, dim, generator=generator)
    embeddings[:, 0] = 0  # a zero vector has no direction: no gradient
    expected: list[list[Tensor]] = [[], [], []]
    prototypes = []
    for head in range(heads):
        loss = configs[head % len(configs)].build(dim, sizes, generator)
        if head == 0:
            with torch.no_grad():
                loss.weight[int(labels[0, 1])] = embeddings[0, 1]  # a cosine of exactly 1
        prototypes.append(loss.weight.detach().clone())
        leaf = embeddings[head].clone().requires_grad_()
        value = loss(leaf, labels[head])
        value.backward()
        assert leaf.grad is not None
        assert loss.weight.grad is not None
        for wanted, tensor in zip(expected, (value.detach(), leaf.grad, loss.weight.grad), strict=True):
            wanted.append(tensor)
    got = BatchedLoss(configs, sizes, seeds).slopes(embeddings, torch.stack(prototypes), labels)
    for result, tensors in zip(got, expected, strict=True):
        # slopes are steep at a cosine of 1
        torch.testing.assert_close(result, torch.stack(tensors), rtol=1e-4, atol=1e-5)


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
    assert batch_key(BASE, CLASSES, views=2) is None  # a random view of each image
    assert batch_key(BASE.with_settings({"training.views": "first"}), CLASSES, views=2) is not None


def test_large_heads_are_not_stacked_and_memory_bounds_how_many_small_ones_are() -> None:
    assert batch_key(BASE, 10**6) is None
    small = heads_at_once(BASE, seeds=3, features=1280, classes=98)
    large = heads_at_once(BASE, seeds=3, features=1280, classes=30_000)
    assert small > large >= 1
    assert heads_at_once(BASE, seeds=1000, features=1280, classes=98) == 1
