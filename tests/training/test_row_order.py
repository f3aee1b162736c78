"""The order of a table's rows: a head, its identity and a sweep's scores do not depend on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from cache import FeatureStore
from stages.records import Records
from stages.training import (
    ArcFaceConfig,
    DiscriminantHeadConfig,
    HeadRecipe,
    LinearHeadConfig,
    MultilabelHeadConfig,
    PcaHeadConfig,
    PosteriorHeadConfig,
    RidgeHeadConfig,
    TrainingConfig,
    train_head,
)
from stages.training.pairs.kinds import MultiSimilarityConfig
from stages.training.rows.sampling import BalancedConfig, DomainWeightsConfig, OneDomainConfig
from stages.training.sweep.trials import cross_validation, run_trials
from tests.toys.training import classes_of, digest_of, make_store, toy_features

LABELS = classes_of(14, 4)
HEAD, LOSS = LinearHeadConfig(dim=6), ArcFaceConfig(scale=16.0, subcenters=2)
SHORT = TrainingConfig(epochs=2, batch_size=8)
RECIPES = {
    "held-out classes": HeadRecipe(HEAD, LOSS, training=SHORT),
    "balanced": HeadRecipe(HEAD, LOSS, training=replace(SHORT, sampling=BalancedConfig(power=0.5))),
    "one domain": HeadRecipe(HEAD, LOSS, training=replace(SHORT, sampling=OneDomainConfig())),
    "domain weights": HeadRecipe(HEAD, LOSS, training=replace(SHORT, sampling=DomainWeightsConfig())),
    "experts": HeadRecipe(HEAD, LOSS, training=replace(SHORT, experts=True)),
    "from disk": HeadRecipe(HEAD, LOSS, training=replace(SHORT, memory="map")),
    "from a start": HeadRecipe(HEAD, LOSS, start=DiscriminantHeadConfig(dim=6), training=replace(SHORT, soup=2)),
    "pairs": HeadRecipe(HEAD, MultiSimilarityConfig(memory=16), training=SHORT),
    "pca": HeadRecipe(PcaHeadConfig(dim=4)),
    "ridge": HeadRecipe(RidgeHeadConfig(dim=4)),
    "posterior": HeadRecipe(PosteriorHeadConfig(dim=8)),
    "multilabel": HeadRecipe(MultilabelHeadConfig(task="both", tags="gru"), training=SHORT),
}


def records_of(keys: list[str]) -> Records:
    """Records of ``keys``; the bytes of ``4-0`` and of ``5-0`` are those of ``0-0``, in a class of their own."""
    numbers = [int(key.split("-")[0]) for key in keys]
    names = ["0-0" if key in ("4-0", "5-0") else key for key in keys]
    columns: dict[str, list[object]] = {
        "key": [*keys],
        "digest": [digest_of(name) for name in names],
        "label": [LABELS[key] for key in keys],
        "domain": ["even" if number % 2 == 0 else "odd" for number in numbers],
        "attributes.hand": ["left" if number < 7 else "right" for number in numbers],
        "tags": ["a plain cup" if number < 7 else "a tall cup" for number in numbers],
    }
    return Records(pa.table(columns), {})


def two_orders(folder: Path, keys: list[str]) -> tuple[FeatureStore, Records, Records]:
    """The features of all rows, the records of ``keys``, and the same records shuffled."""
    features = make_store(folder, dict(zip(LABELS, toy_features(LABELS, noise=0.2), strict=True)), chunk_rows=16)
    return features, records_of(keys), records_of(np.random.default_rng(3).permutation(keys).tolist())


@pytest.mark.parametrize("name", RECIPES)
def test_a_shuffled_table_trains_the_same_head_to_the_last_bit(tmp_path: Path, name: str) -> None:
    features, ordered, shuffled = two_orders(tmp_path, [*LABELS])
    one, other = (train_head(features, records, RECIPES[name]) for records in (ordered, shuffled))
    assert one.fingerprint == other.fingerprint
    assert one.summary == other.summary
    weights = other.network.state_dict()
    assert all(torch.equal(tensor, weights[key]) for key, tensor in one.network.state_dict().items())


def test_a_shuffled_validation_split_chooses_the_same_epoch_of_the_same_head(tmp_path: Path) -> None:
    learned, held = ([key for key in LABELS if (int(key.split("-")[0]) < 8) is low] for low in (True, False))
    features, ordered, shuffled = two_orders(tmp_path, held)
    heads = [
        train_head(features, records_of(learned), HeadRecipe(HEAD, LOSS, training=SHORT), validation=(side, side))
        for side in (ordered, shuffled)
    ]
    assert heads[0].fingerprint == heads[1].fingerprint
    assert [epoch.validation_mmp5 for epoch in heads[0].log] == [epoch.validation_mmp5 for epoch in heads[1].log]


def test_a_shuffled_table_has_the_same_trials(tmp_path: Path) -> None:
    features, *tables = two_orders(tmp_path, [*LABELS])
    splits = [
        cross_validation(features, records, lambda rows, _: rows[:, 0].astype(np.float64), folds=2, seeds=(0,))
        for records in tables
    ]
    for recipe in (RECIPES["balanced"], RECIPES["pca"]):
        one, other = (next(run_trials(split, [recipe]))[1] for split in splits)
        assert splits[0].fingerprint_of(recipe) == splits[1].fingerprint_of(recipe)
        assert one.values.tolist() == other.values.tolist()
    assert splits[0].query_keys == splits[1].query_keys
