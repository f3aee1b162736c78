from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from cache import FeatureStore
from cache.errors import DivergedError, MissingRowsError, NothingToScoreError, RecordsError
from stages.records import Records
from stages.training import (
    ArcFaceConfig,
    CosFaceConfig,
    EpochLog,
    Head,
    HeadRecipe,
    InputsConfig,
    LinearHeadConfig,
    OptimizerConfig,
    TrainingConfig,
    head_identity,
    train_head,
)
from stages.training.rows import validation
from stages.training.rows.validation import held_out
from tests.toys.training import add_to_store, classes_of, make_records, toy, toy_features

HEAD = LinearHeadConfig(dim=4)
LOSS = ArcFaceConfig(scale=16.0)
TRAIN, HELD = classes_of(20, 8), classes_of(8, 6, first=50)
SHORT = TrainingConfig(epochs=3, batch_size=32)


def state_of(network: torch.nn.Module) -> bytes:
    return b"".join(tensor.numpy().tobytes() for _, tensor in sorted(network.state_dict().items()))


def weights_of(head: Head) -> bytes:
    return state_of(head.network)


def toy_with_validation(folder: Path) -> tuple[FeatureStore, Records, Records]:
    """A store, the training records, and records of other classes."""
    features, _ = toy(folder, TRAIN | HELD)
    return features, make_records(TRAIN), make_records(HELD)


# The schedule


def test_the_learning_rate_warms_up_then_falls_along_a_half_cosine() -> None:
    config = OptimizerConfig(lr=1.0, final_lr=0.2, warmup_epochs=1.0)
    rates = [config.learning_rate(step, steps_per_epoch=4, epochs=3) for step in range(12)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == pytest.approx([1.0, 0.960388, 0.849396, 0.689008, 0.510992, 0.350604, 0.239612, 0.2], abs=1e-6)


def test_without_warm_up_the_first_step_has_the_full_rate_and_a_warm_up_may_be_all_there_is() -> None:
    flat = OptimizerConfig(lr=0.5, final_lr=0.1, warmup_epochs=0.0)
    assert [flat.learning_rate(step, 1, 2) for step in range(2)] == [0.5, pytest.approx(0.1)]
    rising = OptimizerConfig(lr=0.5, final_lr=0.1, warmup_epochs=2.0)
    assert [rising.learning_rate(step, 1, 2) for step in range(2)] == [0.25, 0.5]


def test_the_product_of_warm_up_and_cosine_is_that_of_pytorch_and_a_linear_dampening() -> None:
    """As pytorch_warmup dampens PyTorch's own schedule: the cosine runs over all steps, also those of the warm-up."""
    steps, epochs, warmup = 7, 4, 7
    config = OptimizerConfig(lr=2e-2, final_lr=1e-3, warmup_epochs=1.0, schedule="warmup_times_cosine")
    weight = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([weight], lr=2e-2)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=steps * epochs, eta_min=1e-3)
    for step in range(steps * epochs):
        dampened = cosine.get_last_lr()[0] * min(1.0, (step + 1) / warmup)
        assert config.learning_rate(step, steps, epochs) == pytest.approx(dampened, rel=1e-9)
        theirs.step()
        cosine.step()
    flat = replace(config, warmup_epochs=0.0)
    assert flat.learning_rate(0, steps, epochs) == pytest.approx(2e-2)


# Which rows


def test_held_out_classes_are_whole_searchable_and_the_stated_share() -> None:
    labels = [f"c{n // 3}" for n in range(60)] + ["single 1", "single 2"]
    mask = held_out(labels, [None] * len(labels), 0.2, np.random.default_rng(0))
    assert mask is not None
    held = {label for label, apart in zip(labels, mask, strict=True) if apart}
    rest = {label for label, apart in zip(labels, mask, strict=True) if not apart}
    assert len(held) == 4  # of the 20 classes of several rows
    assert not held & rest
    assert {"single 1", "single 2"} <= rest


def test_a_label_is_held_out_in_all_its_domains_together() -> None:
    labels = [f"c{n // 3 % 20}" for n in range(120)] + ["lone"] * 2
    domains = ["photo"] * 60 + ["art"] * 60 + ["photo", "art"]
    mask = held_out(labels, domains, 0.2, np.random.default_rng(0))
    assert mask is not None
    held = {label for label, apart in zip(labels, mask, strict=True) if apart}
    assert len(held) == 4
    assert "lone" not in held  # one row in each domain has nothing to match
    assert mask.tolist() == [label in held for label in labels]


@pytest.mark.parametrize(("classes", "share"), [(4, 0.2), (0, 0.2), (20, 0.0)])
def test_nothing_is_held_out_of_few_classes_or_on_request(classes: int, share: float) -> None:
    labels = [f"c{n // 2}" for n in range(2 * classes)]
    assert held_out(labels, [None] * len(labels), share, np.random.default_rng(0)) is None


# The validation score


def test_an_epoch_is_scored_by_the_records_given_and_queries_find_themselves_by_key_alone(tmp_path: Path) -> None:
    features, _ = toy(tmp_path, HELD)
    rows = make_records(HELD)
    shuffled = rows.take(np.random.default_rng(0).permutation(len(rows)))
    searched = validation.validation_set(features, rows, shuffled)
    assert [shuffled.keys[row] for row in searched.own] == rows.keys
    alone = validation.validation_set(features, rows, rows)
    unit = torch.nn.functional.normalize
    assert searched.score(lambda x: unit(x.float())) == pytest.approx(alone.score(lambda x: unit(x.float())))


def test_validation_queries_without_anything_to_find_are_refused(tmp_path: Path) -> None:
    features, records, held = toy_with_validation(tmp_path)
    with pytest.raises(NothingToScoreError, match="none of the 48 validation queries has another image of its label"):
        train_head(features, records, HeadRecipe(HEAD, LOSS, training=SHORT), validation=(held, records))


# Training


def test_training_twice_gives_the_same_bits_and_another_seed_does_not(tmp_path: Path) -> None:
    features, records = toy(tmp_path, TRAIN)
    first, again, other = (
        train_head(features, records, HeadRecipe(HEAD, ArcFaceConfig(subcenters=2), training=SHORT), seed=seed)
        for seed in (3, 3, 4)
    )
    assert weights_of(first) == weights_of(again)
    assert first.fingerprint == again.fingerprint
    assert [replace(epoch, seconds=0) for epoch in first.log] == [replace(epoch, seconds=0) for epoch in again.log]
    assert weights_of(first) != weights_of(other)
    assert first.fingerprint != other.fingerprint


def test_training_leaves_the_random_numbers_of_the_process_alone(tmp_path: Path) -> None:
    features, records = toy(tmp_path, TRAIN)
    before, legacy = torch.get_rng_state(), np.random.get_state()[1].tobytes()  # type: ignore[index]  # noqa: NPY002
    train_head(features, records, HeadRecipe(HEAD, LOSS, training=SHORT))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tobytes() == legacy  # type: ignore[index]  # noqa: NPY002


@pytest.mark.parametrize("loss", [ArcFaceConfig(subcenters=2, scale=16.0), CosFaceConfig(scale=16.0)])
def test_a_trained_head_finds_new_classes_better_than_the_features(
    tmp_path: Path, loss: ArcFaceConfig | CosFaceConfig
) -> None:
    features, records, held = toy_with_validation(tmp_path)
    searched = validation.validation_set(features, held, held)
    raw = searched.score(lambda x: torch.nn.functional.normalize(x.float()))
    optimizer, training = OptimizerConfig(lr=3e-2, final_lr=1e-3), TrainingConfig(epochs=15, batch_size=16, holdout=0.0)
    head = train_head(features, records, HeadRecipe(HEAD, loss, optimizer=optimizer, training=training))
    assert searched.score(head.network) > raw + 0.2


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimizer_lowers_the_loss(tmp_path: Path, optimizer: Literal["adam", "adamw", "sgd"]) -> None:
    features, records = toy(tmp_path, TRAIN)
    moved = OptimizerConfig(kind=optimizer, lr=3e-2, final_lr=1e-3)
    head = train_head(features, records, HeadRecipe(HEAD, LOSS, optimizer=moved, training=replace(SHORT, holdout=0.0)))
    assert head.log[0].loss > head.log[1].loss > head.log[2].loss


def test_the_recipe_of_unifex_is_expressible(tmp_path: Path) -> None:
    features, records, _ = toy_with_validation(tmp_path)
    head = train_head(
        features,
        records,
        HeadRecipe(
            LinearHeadConfig(dim=64, dropout=0.2, inputs=InputsConfig(center=False, rescale="none")),
            ArcFaceConfig(subcenters=3, margin_rad=0.5, scale=30.0),
            optimizer=OptimizerConfig(lr=2e-2, final_lr=1e-3, weight_decay=1e-4, schedule="warmup_times_cosine"),
            training=TrainingConfig(epochs=2, batch_size=128, minimum_class_size=3, keep="last"),
        ),
    )
    assert head(features.read(records.digests)).shape == (160, 64)


def test_the_best_epoch_on_the_validation_records_is_the_one_kept(tmp_path: Path) -> None:
    features, records, held = toy_with_validation(tmp_path)
    heard: list[EpochLog] = []
    head = train_head(
        features,
        records,
        HeadRecipe(
            HEAD,
            LOSS,
            optimizer=OptimizerConfig(lr=0.3, final_lr=0.3),
            training=TrainingConfig(epochs=8, batch_size=16),
        ),
        validation=(held, held),
        on_epoch=heard.append,
    )
    scores = [epoch.validation_mmp5 for epoch in head.log if epoch.validation_mmp5 is not None]
    assert len(scores) == 8
    assert list(head.log) == heard
    assert [(epoch.phase, epoch.epoch) for epoch in head.log] == [("train", n) for n in range(1, 9)]
    assert scores.index(max(scores)) + 1 == head.summary.epoch
    assert validation.validation_set(features, held, held).score(head.network) == max(scores)
    assert head.summary.chosen_by == "mMP@5 on the validation records"


def test_the_last_epoch_is_kept_where_the_settings_say_so_and_validation_only_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, records, held = toy_with_validation(tmp_path)
    monkeypatch.setattr(validation.ValidationSet, "score", lambda *_: 0.4)
    recipe = HeadRecipe(HEAD, LOSS, training=replace(SHORT, epochs=3, keep="last"))
    alone = train_head(features, records, recipe)
    assert [epoch.phase for epoch in alone.log] == ["train"] * 3  # nothing is held out
    validated = train_head(features, records, recipe, validation=(held, held))
    assert [epoch.validation_mmp5 for epoch in validated.log] == [0.4] * 3
    for head in (alone, validated):
        assert (head.summary.epoch, head.summary.chosen_by) == (3, "it is the last: keep is last")
        assert torch.equal(head.network.state_dict()["weight"], alone.network.state_dict()["weight"])


def test_of_epochs_with_equal_scores_the_first_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features, records, held = toy_with_validation(tmp_path)
    scores, seen, probe = iter([0.1, 0.4, 0.2, 0.4]), [], torch.eye(16)

    def scripted(_: validation.ValidationSet, network: Callable[[torch.Tensor], torch.Tensor]) -> float:
        seen.append(network(probe).detach().numpy().tobytes())
        return next(scores)

    monkeypatch.setattr(validation.ValidationSet, "score", scripted)
    head = train_head(
        features, records, HeadRecipe(HEAD, LOSS, training=replace(SHORT, epochs=4)), validation=(held, held)
    )
    assert head.summary.epoch == 2
    assert head(probe.numpy()).tobytes() == seen[1]
    assert len(set(seen)) == 4


def test_without_validation_held_out_classes_choose_the_epoch_and_all_classes_are_trained_on(tmp_path: Path) -> None:
    features, records, held = toy_with_validation(tmp_path)
    head = train_head(features, records, HeadRecipe(HEAD, LOSS, training=TrainingConfig(epochs=6, batch_size=32)))
    chosen = [epoch for epoch in head.log if epoch.phase == "choose"]
    trained = [epoch for epoch in head.log if epoch.phase == "train"]
    scores = [epoch.validation_mmp5 or 0.0 for epoch in chosen]
    assert len(chosen) == 6
    assert [epoch.epoch for epoch in trained] == list(range(1, scores.index(max(scores)) + 2))
    assert head.summary.epoch == len(trained)
    assert head.summary.chosen_by == "mMP@5 on 4 held-out classes; then all were trained on"
    assert (head.summary.rows, head.summary.classes) == (160, 20)

    # The second head is the one that the first epochs on all classes give.
    whole = train_head(
        features,
        records,
        HeadRecipe(HEAD, LOSS, training=TrainingConfig(epochs=6, batch_size=32)),
        validation=(held, held),
    )
    assert [replace(epoch, seconds=0, validation_mmp5=None) for epoch in whole.log[: len(trained)]] == [
        replace(epoch, seconds=0) for epoch in trained
    ]


@pytest.mark.parametrize(
    ("classes", "holdout", "why"), [(4, 0.2, "fewer than 5 classes have two images"), (12, 0.0, "holdout is 0")]
)
def test_where_nothing_can_be_held_out_the_last_epoch_is_kept_and_said_so(
    tmp_path: Path, classes: int, holdout: float, why: str
) -> None:
    features, records = toy(tmp_path, classes_of(classes, 5))
    head = train_head(features, records, HeadRecipe(HEAD, LOSS, training=TrainingConfig(epochs=3, holdout=holdout)))
    assert [(epoch.phase, epoch.validation_mmp5) for epoch in head.log] == [("train", None)] * 3
    assert head.summary.epoch == 3
    assert why in head.summary.chosen_by


# What is left out, and what is refused


def test_failed_images_are_left_out_and_counted_and_change_nothing_else(tmp_path: Path) -> None:
    failed = [f"{c}-0" for c in range(4)]
    features, records = toy(tmp_path, TRAIN, failed=failed)
    head = train_head(features, records, HeadRecipe(HEAD, LOSS, training=SHORT))
    there = records.take([row for row, key in enumerate(records.keys) if key not in failed])
    same = train_head(features, there, HeadRecipe(HEAD, LOSS, training=SHORT))
    assert (head.summary.failed, head.summary.rows) == (4, 156)
    assert weights_of(head) == weights_of(same)
    assert head.fingerprint == same.fingerprint


def test_small_classes_are_left_out_and_counted(tmp_path: Path) -> None:
    labels = TRAIN | {"pair-0": "pair", "pair-1": "pair", "alone": "alone"}
    features, records = toy(tmp_path, labels)
    whole = train_head(features, records, HeadRecipe(HEAD, LOSS, training=replace(SHORT, minimum_class_size=2)))
    fewer = train_head(features, records, HeadRecipe(HEAD, LOSS, training=replace(SHORT, minimum_class_size=3)))
    assert (whole.summary.small, whole.summary.classes) == (1, 21)
    assert (fewer.summary.small, fewer.summary.classes) == (3, 20)


def test_a_training_record_without_a_label_is_named(tmp_path: Path) -> None:
    features, records = toy(tmp_path, TRAIN | {"nobody": None})
    with pytest.raises(RecordsError, match="the training record 'nobody' has no label"):
        train_head(features, records, HEAD, LOSS)


def test_a_training_image_that_was_never_extracted_is_named(tmp_path: Path) -> None:
    features, _ = toy(tmp_path, TRAIN)
    with pytest.raises(MissingRowsError, match=r"no row for 2 of 162 images, the first of key 'new-0'"):
        train_head(features, make_records(TRAIN | {"new-0": "class 0", "new-1": "class 0"}), HEAD, LOSS)


def test_one_class_is_too_few(tmp_path: Path) -> None:
    features, records = toy(tmp_path, {**classes_of(1, 5), "alone": "alone"})
    with pytest.raises(RecordsError, match=r"needs two; of 6 training records .* 1 are in classes of fewer than 2"):
        train_head(features, records, HEAD, LOSS)


def test_a_loss_that_is_not_finite_names_the_epoch_and_what_to_change(tmp_path: Path) -> None:
    features, records = toy(tmp_path, TRAIN)
    wild = OptimizerConfig(kind="sgd", lr=1e38, final_lr=0.0, warmup_epochs=0.0)
    with pytest.raises(DivergedError, match=r"the loss became nan in epoch 1\. Lower optimizer\.lr \(1e\+38\)"):
        train_head(features, records, HeadRecipe(HEAD, LOSS, optimizer=wild, training=SHORT))


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (TrainingConfig, {"epochs": 0}, "epochs is at least 1, got 0"),
        (TrainingConfig, {"batch_size": 0}, "batch_size is at least 1, got 0"),
        (TrainingConfig, {"holdout": 0.9}, r"holdout is a share of the classes, in \[0, 0.5\], got 0.9"),
        (OptimizerConfig, {"lr": 0.0}, "lr is above 0 and finite, got 0.0"),
        (OptimizerConfig, {"lr": 0.1, "final_lr": 0.2}, r"final_lr is what lr \(0.1\) falls to, in \[0, lr\], got 0.2"),
        (OptimizerConfig, {"kind": "lion"}, "kind is adam, adamw or sgd, got 'lion'"),
        (OptimizerConfig, {"momentum": 1.0}, r"momentum is in \[0, 1\), got 1.0"),
    ],
)
def test_a_bad_setting_is_refused(config: type, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**settings)


# The identity


def test_the_identity_is_known_before_training_and_names_what_the_weights_follow_from(tmp_path: Path) -> None:
    features, records, held = toy_with_validation(tmp_path)
    plain = head_identity(features, records, HeadRecipe(HEAD, LOSS, training=SHORT))
    assert plain == train_head(features, records, HeadRecipe(HEAD, LOSS, training=SHORT)).identity
    relabelled = make_records({key: str(label).replace("class 1", "klass 1") for key, label in TRAIN.items()})
    others = [
        head_identity(features, records, HeadRecipe(HEAD, LOSS, training=SHORT), seed=1),
        head_identity(features, records, HeadRecipe(replace(HEAD, dim=5), LOSS, training=SHORT)),
        head_identity(features, records, HeadRecipe(HEAD, replace(LOSS, scale=8.0), training=SHORT)),
        head_identity(features, records, HeadRecipe(HEAD, LOSS, training=replace(SHORT, epochs=4))),
        head_identity(features, records, HeadRecipe(HEAD, LOSS, optimizer=OptimizerConfig(lr=0.5), training=SHORT)),
        head_identity(features, records, HeadRecipe(HEAD, LOSS, training=SHORT), validation=(held, held)),
        head_identity(features, records.take(range(100)), HeadRecipe(HEAD, LOSS, training=SHORT)),
        head_identity(features, relabelled, HeadRecipe(HEAD, LOSS, training=SHORT)),
    ]
    assert len({identity.fingerprint for identity in [plain, *others]}) == 9


def test_renaming_images_and_adding_others_to_the_store_change_no_identity(tmp_path: Path) -> None:
    features, records = toy(tmp_path, TRAIN)
    table = records.table
    renamed = table.set_column(table.column_names.index("key"), "key", [[f"new {key}" for key in records.keys]])
    before = head_identity(features, records, HEAD, LOSS)
    assert head_identity(features, Records(renamed, {}), HEAD, LOSS) == before
    add_to_store(features, dict(zip(HELD, toy_features(HELD), strict=True)))
    assert head_identity(features, records, HEAD, LOSS) == before
