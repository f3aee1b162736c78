"""Heads trained with losses on pairs: the loop, the log, the memory, sweeps."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cache.errors import ConfigError, MissingExtraError, RecordsError
from pipeline.config import parse_config
from stages.ranking import leave_one_out
from stages.training import (
    Head,
    LinearHeadConfig,
    LossConfig,
    NormFaceConfig,
    OptimizerConfig,
    PcaHeadConfig,
    TrainingConfig,
    train_head,
)
from stages.training.loop import Training
from stages.training.pairs.kinds import (
    AllConfig,
    ContrastiveConfig,
    DistanceWeightedConfig,
    EasyPositivesConfig,
    HardConfig,
    MarginConfig,
    MultiSimilarityConfig,
    ProxyAnchorConfig,
    ProxyNcaConfig,
    RangeConfig,
    RecallConfig,
    SemiHardConfig,
    SmoothApConfig,
    SoftTripleConfig,
    SupConConfig,
    TripletConfig,
)
from stages.training.pairs.loss import CrossBatchMemory, RowWise
from stages.training.recipe import HeadRecipe
from stages.training.rows.labelled_rows import LabelledRows
from stages.training.rows.sampling import ByLossConfig, ClassesByImagesConfig, ShuffledConfig, build_sampler
from stages.training.sweep.batched_heads import batch_key
from stages.training.sweep.trials import cross_validation, run_trials
from stages.training.training_inputs import prepare
from tests.toys.training import classes_of, toy

EVERY: list[Any] = [
    ContrastiveConfig(),
    MarginConfig(),
    MultiSimilarityConfig(),
    ProxyAnchorConfig(),
    ProxyNcaConfig(),
    RangeConfig(),
    RecallConfig(),
    SmoothApConfig(),
    SoftTripleConfig(),
    SupConConfig(),
    TripletConfig(),
]
OF_PAIRS = [loss for loss in EVERY if loss.of_pairs]
FASTER = OptimizerConfig(lr=0.03, final_lr=0.003)
SHORT = TrainingConfig(epochs=3, batch_size=32, holdout=0.0)
LEARNED = classes_of(20, 8)


def run_of(folder: Path, loss: LossConfig, training: TrainingConfig = SHORT, head: Any = None) -> Training:
    features, records = toy(folder, LEARNED)
    setup = prepare(features, records, HeadRecipe(head or LinearHeadConfig(dim=4), loss, training=training))
    return Training(setup, LabelledRows.of(features, records, mapped=False), None, training.epochs)


@pytest.mark.parametrize("loss", EVERY, ids=lambda loss: loss.kind)
def test_a_head_of_one_line_finds_its_classes_better_than_the_feature(tmp_path: Path, loss: LossConfig) -> None:
    features, records = toy(tmp_path, classes_of(30, 8))
    head = train_head(
        features,
        records,
        HeadRecipe(LinearHeadConfig(dim=4), loss, optimizer=FASTER, training=replace(SHORT, epochs=30)),
    )
    vectors = np.asarray(features.read(records.digests)).astype(np.float32)
    _, labels = np.unique(np.array(records.classes, dtype=object), return_inverse=True)
    raw, trained = (leave_one_out(each, labels.astype(np.int64), "mmp@5").mean() for each in (vectors, head(vectors)))
    assert trained > raw + 0.1


# The log


@pytest.mark.parametrize("loss", OF_PAIRS, ids=lambda loss: loss.kind)
def test_the_log_says_what_was_found(tmp_path: Path, loss: LossConfig) -> None:
    features, records = toy(tmp_path, LEARNED)
    head = train_head(features, records, HeadRecipe(LinearHeadConfig(dim=4), loss, training=SHORT))
    for epoch in head.log:
        assert epoch.pairs is not None
        assert epoch.pairs > 0
        assert epoch.zero_share is not None
        assert 0 <= epoch.zero_share <= 1
        assert epoch.hardness is not None
        assert -2 <= epoch.hardness <= 2
    head.save(tmp_path / "head")
    lines = [json.loads(line) for line in (tmp_path / "head/log.jsonl").read_text().splitlines()]
    assert [line["hardness"] for line in lines] == [epoch.hardness for epoch in head.log]
    assert Head.load(tmp_path / "head").log == head.log


def test_what_is_found_gets_easier_as_the_head_learns(tmp_path: Path) -> None:
    features, records = toy(tmp_path, LEARNED)
    loss = ContrastiveConfig(margin_dist=1.0)
    training = replace(SHORT, epochs=8)
    log = train_head(
        features, records, HeadRecipe(LinearHeadConfig(dim=4), loss, optimizer=FASTER, training=training)
    ).log
    assert log[-1].hardness is not None
    assert log[0].hardness is not None
    assert log[-1].hardness < log[0].hardness - 0.1


def test_of_a_margin_loss_the_log_says_nothing_about_pairs(tmp_path: Path) -> None:
    features, records = toy(tmp_path, LEARNED)
    (epoch, *_) = train_head(
        features, records, HeadRecipe(LinearHeadConfig(dim=4), NormFaceConfig(), training=SHORT)
    ).log
    assert (epoch.pairs, epoch.zero_share, epoch.hardness) == (None, None, None)


# Batches


def test_by_default_batches_suit_the_loss(tmp_path: Path) -> None:
    features, records = toy(tmp_path, LEARNED)

    def sampling(loss: LossConfig, **settings: Any) -> object:
        training = TrainingConfig(**settings)
        return prepare(
            features, records, HeadRecipe(LinearHeadConfig(dim=4), loss, training=training)
        ).training.sampling

    for loss in EVERY:
        assert sampling(loss) == (ClassesByImagesConfig() if loss.of_pairs else ShuffledConfig())
        assert sampling(loss, sampling=ShuffledConfig()) == ShuffledConfig()
    assert sampling(NormFaceConfig()) == ShuffledConfig()
    with pytest.raises(ValueError, match=r"a multiple of sampling\.images \(4\), got 30"):
        sampling(TripletConfig(), batch_size=30)
    with pytest.raises(ValueError, match="by_loss must be replaced"):
        build_sampler(ByLossConfig(), np.zeros(4, np.int64), np.zeros(4, np.int64), 2)


def test_the_identity_of_a_head_with_a_margin_loss_does_not_change_by_naming_its_sampling(tmp_path: Path) -> None:
    features, records = toy(tmp_path, LEARNED)
    results = [
        prepare(features, records, HeadRecipe(LinearHeadConfig(dim=4), NormFaceConfig(), training=training)).identity()
        for training in (TrainingConfig(), TrainingConfig(sampling=ShuffledConfig()))
    ]
    assert results[0] == results[1]


def test_a_loss_on_pairs_that_could_never_find_one_is_refused(tmp_path: Path) -> None:
    features, records = toy(tmp_path, classes_of(20, 1))
    training = TrainingConfig(minimum_class_size=1)
    with pytest.raises(RecordsError, match="triplet compares rows of a class, but each of the 20 training classes has"):
        prepare(features, records, HeadRecipe(LinearHeadConfig(dim=4), TripletConfig(), training=training))
    prepare(features, records, HeadRecipe(LinearHeadConfig(dim=4), ProxyNcaConfig(), training=training))
    training = replace(training, sampling=ClassesByImagesConfig(images=1))
    with pytest.raises(ValueError, match=r"supcon compares rows of a class: sampling\.images is at least 2, got 1"):
        prepare(features, records, HeadRecipe(LinearHeadConfig(dim=4), SupConConfig(), training=training))


# Memory


def test_the_memory_holds_the_last_embeddings_in_any_order_of_sizes() -> None:
    memory, expected = CrossBatchMemory(7, 3), list[tuple[list[float], int, int]]()
    generator = torch.Generator().manual_seed(0)
    for size in (3, 3, 1, 0, 5, 12, 2):
        vectors, labels = torch.randn(size, 3, generator=generator), torch.arange(size) + len(expected)
        memory.store(vectors, labels, labels * 10)
        expected = [*expected, *zip(vectors.tolist(), labels.tolist(), (labels * 10).tolist(), strict=True)][-7:]
        content = [part.tolist() for part in memory.content(3)]
        assert sorted(zip(*content, strict=True)) == sorted(expected)
        assert len(memory) == len(expected)


def test_each_step_is_remembered_once_with_its_rows(tmp_path: Path) -> None:
    for number, training in enumerate((SHORT, replace(SHORT, sam_rho=0.05))):
        run = run_of(tmp_path / str(number), TripletConfig(memory=150), training)
        assert isinstance(run.loss, RowWise)
        run.epoch()
        assert len(run.loss.memory) == min(150, 32 * 5)
        _, labels, rows = run.loss.memory.content(4)
        assert labels.tolist() == run.rows.labels[rows.numpy()].tolist()


def test_nested_sizes_share_one_memory_of_whole_embeddings(tmp_path: Path) -> None:
    run = run_of(tmp_path, ContrastiveConfig(memory=64), head=LinearHeadConfig(dim=4, nested=(2,)))
    assert isinstance(run.loss, RowWise)
    run.epoch()
    vectors, _, _ = run.loss.memory.content(4)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(64))
    short, _, _ = run.loss.memory.content(2)
    torch.testing.assert_close(short, torch.nn.functional.normalize(vectors[:, :2]))


def test_a_row_is_no_positive_of_what_it_was_before() -> None:
    loss = TripletConfig(memory=10, miner=HardConfig(positives=0)).build(3, torch.tensor([2, 2]), torch.Generator())
    vectors, labels, rows = torch.randn(4, 3), torch.tensor([0, 0, 1, 1]), torch.arange(4)
    for times in (1, 2, 3):
        loss(vectors, labels, rows)
        loss.after_step()
        # each row has one other row of its class, as it is now and as it was
        assert loss.take_statistics().chosen == 4 * min(times, 3)
    loss(vectors, labels)  # without numbers all rows are different
    assert loss.take_statistics().chosen == 4 * (1 + 5)


# A line of configuration

HEADS = """
artifacts = "artifacts"
[dataset]
kind = "folder"
path = "images"
[[backbones]]
kind = "bundled"
name = "efficientnet_lite0"
[[heads]]
name = "pairs"
dim = 64
loss = {LOSS}
"""


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (
            '{ kind = "triplet", margin_dist = 0.2, miner = { kind = "semi_hard" }, memory = 50000 }',
            TripletConfig(margin_dist=0.2, miner=SemiHardConfig(), memory=50_000),
        ),
        ('{ kind = "triplet", miner = { kind = "all" } }', TripletConfig(miner=AllConfig())),
        ('{ kind = "contrastive", miner = { kind = "easy_positives", negatives = "hard" } }', None),
        ('{ kind = "margin", beta = "by_class", miner = { kind = "hard", positives = 0 } }', None),
        ('{ kind = "multi_similarity", slack_cos = 2 }', MultiSimilarityConfig(slack_cos=2.0)),
        ('{ kind = "recall", ks = [1, 10] }', RecallConfig(ks=(1, 10))),
        ('{ kind = "proxynca++" }', ProxyNcaConfig()),
        ('{ kind = "range" }', RangeConfig()),
        ('{ kind = "supcon", memory = 100 }', SupConConfig(memory=100)),
        ('{ kind = "proxy_anchor", proxy_rate = 10 }', ProxyAnchorConfig(proxy_rate=10.0)),
        ('{ kind = "soft_triple", subcenters = 2 }', SoftTripleConfig(subcenters=2)),
        ('{ kind = "smooth_ap" }', SmoothApConfig()),
        ('{ kind = "margin", miner = { kind = "distance_weighted", nearest_dist = 0.4 } }', None),
    ],
)
def test_a_run_file_names_each_loss_in_one_line(line: str, wanted: object) -> None:
    (head,) = parse_config(HEADS.replace("{LOSS}", line)).heads
    if wanted is not None:
        assert head.recipe.loss == wanted
    assert head.recipe.method == line.split('"')[1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{ kind = "triplet", margin = 0.2 }', r"heads\[0\]\.loss\.margin: unknown key"),
        ('{ kind = "triplet", margin_dist = 28.6 }', r"margin_dist is a distance of embeddings of unit length"),
        ('{ kind = "triplet", miner = { kind = "semihard" } }', r"loss\.miner: kind must be one of .*'semi_hard'"),
        ('{ kind = "triplet", miner = { kind = "hard", margin_dist = 1.0 } }', r"miner\.margin_dist: unknown key"),
        ('{ kind = "smooth_ap", memory = 100 }', r"heads\[0\]\.loss\.memory: unknown key"),
        ('{ kind = "supcon", memory = 1.5 }', r"loss\.memory: Input should be a valid integer"),
        ('{ kind = "pairs" }', r"loss: kind must be one of .*'contrastive'"),
    ],
)
def test_a_wrong_line_is_refused_by_its_path(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(HEADS.replace("{LOSS}", line))


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features, records = toy(tmp_path, LEARNED)
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    for loss in (TripletConfig(), ProxyAnchorConfig()):
        with pytest.raises(MissingExtraError, match=r"pip install 'permafrost-retrieval\[pairs\]'"):
            train_head(features, records, HeadRecipe(LinearHeadConfig(dim=4), loss, training=SHORT))
    train_head(features, records, HeadRecipe(LinearHeadConfig(dim=4), SmoothApConfig(), training=SHORT))  # our own


# Sweeps


def test_no_loss_on_pairs_is_stacked_and_each_has_trials_of_its_own(tmp_path: Path) -> None:
    features, records = toy(tmp_path, LEARNED)
    base = HeadRecipe(LinearHeadConfig(dim=4), NormFaceConfig(), training=SHORT)
    assert batch_key(base, 20) is not None
    recipes = [base, *(base.with_settings({"loss.kind": loss.kind}) for loss in EVERY)]
    for recipe in recipes[1:]:
        assert batch_key(recipe, 20) is None
    some = [recipes[0], recipes[2], recipes[5]]
    ground = cross_validation(features, records, lambda e, each: leave_one_out(e, each, "mmp@5"), folds=2, seeds=(0, 1))
    trials = dict(run_trials(ground, some))
    assert sorted(trials) == [0, 1, 2]
    assert all(trial.diverged == 0 and trial.scores.shape == (2, 2) for trial in trials.values())


def test_a_sweep_can_choose_the_miner_and_its_settings() -> None:
    base = HeadRecipe(LinearHeadConfig(dim=4), TripletConfig(miner=SemiHardConfig()))
    assert base.with_settings({"loss.miner": {"kind": "hard"}}).loss == TripletConfig(miner=HardConfig())
    results = base.with_settings({"loss.miner.margin_dist": 0.1, "loss.memory": 500}).loss
    assert results == TripletConfig(miner=SemiHardConfig(margin_dist=0.1), memory=500)
    other = base.with_settings({"loss.memory": 9}).with_settings({"loss.kind": "contrastive"}).loss
    assert other == ContrastiveConfig(miner=SemiHardConfig(), memory=9)


# A start


@pytest.mark.parametrize("loss", [TripletConfig(), ProxyAnchorConfig(), SoftTripleConfig(subcenters=2)])
def test_a_closed_form_can_be_where_training_starts(tmp_path: Path, loss: LossConfig) -> None:
    features, records = toy(tmp_path, LEARNED)
    head = train_head(features, records, HeadRecipe(PcaHeadConfig(dim=4), loss, training=replace(SHORT, anchor=())))
    assert len(head.log) == 3


MINERS = [EasyPositivesConfig(), HardConfig(), SemiHardConfig(), DistanceWeightedConfig()]


@pytest.mark.parametrize("miner", MINERS, ids=lambda miner: miner.kind)
@pytest.mark.parametrize("make", [ContrastiveConfig, TripletConfig, MarginConfig])
def test_every_miner_goes_with_every_loss_that_takes_one(tmp_path: Path, make: Any, miner: Any) -> None:
    run = run_of(tmp_path, make(miner=miner, memory=40))
    run.epoch()
    assert np.isfinite(run.log[0].loss)
