"""The multi-label shallow network: what it is asked, what it loses, and that it learns the same bits again."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.training import (
    ArcFaceConfig,
    EpochLog,
    Head,
    HeadRecipe,
    MultilabelHeadConfig,
    OptimizerConfig,
    PosteriorHeadConfig,
    TrainingConfig,
    head_identity,
    train_head,
)
from stages.training.multilabel.kinds import AsymmetricConfig, AttributeContrastConfig, AttributesConfig
from stages.training.rows.validation import held_rows
from tests.toys.attributes import toy_attributes, with_columns

QUICK = TrainingConfig(epochs=4, batch_size=16)
FAST = OptimizerConfig(lr=1e-2, final_lr=1e-2, weight_decay=1e-5, warmup_epochs=0)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bits(head: Head) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in head.network.state_dict().items()}


# The network


@pytest.mark.parametrize(("layers", "dim", "shapes"), [
    ("single", 0, [(12, 12)]), ("single", 5, [(5, 12)]), ("double", 5, [(12, 12), (5, 12)]),
])  # fmt: skip
def test_a_network_starts_as_the_paper_has_it(layers: str, dim: int, shapes: list[tuple[int, int]]) -> None:
    config = MultilabelHeadConfig(layers=layers, dim=dim)  # type: ignore[arg-type]
    network = config.build([12], drawn())
    assert [tuple(weight.shape) for weight in network.weights] == shapes
    assert network.dim == (dim or 12)
    for weight, bias in zip(network.weights, network.biases, strict=True):
        bound = math.sqrt(6 / weight.shape[1])
        assert 0.8 * bound < float(weight.detach().abs().max()) <= bound
        assert (bias == 0.01).all()


def test_the_embedding_is_the_last_hidden_layer_at_unit_length() -> None:
    network = MultilabelHeadConfig(layers="double", dim=5).build([12], drawn())
    features = torch.randn(7, 12, generator=drawn(1))
    with torch.no_grad():
        given = network(features)
        for row, vector in zip(features, given, strict=True):
            hidden = row
            for weight, bias in zip(network.weights, network.biases, strict=True):
                hidden = torch.tensor([max(0.0, float(w @ hidden + b)) for w, b in zip(weight, bias, strict=True)])
            torch.testing.assert_close(vector, hidden / hidden.norm())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": -1}, "0 for that of the feature"),
        ({"balanced": 1.0}, r"balanced is beta, in \[0, 1\)"),
        ({"instance_weight": 0.0}, "instance_weight is a factor, above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultilabelHeadConfig(**settings)  # type: ignore[arg-type]


# Training

KINDS = {
    "attributes": MultilabelHeadConfig(dim=8),
    "double": MultilabelHeadConfig(dim=8, layers="double"),
    "words in order": MultilabelHeadConfig(dim=8, task="tags"),
    "bag of words": MultilabelHeadConfig(dim=8, task="tags", tags="bag", asymmetric=AsymmetricConfig()),
    "both, weighed": MultilabelHeadConfig(dim=8, task="both", task_weights="learned", balanced=0.9),
    "contrast": MultilabelHeadConfig(dim=8, contrastive=AttributeContrastConfig(), refit=False),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_learns_and_a_training_that_was_stopped_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    store, records = toy_attributes(tmp_path)

    def train(**more: object) -> Head:
        return train_head(store, records, HeadRecipe(KINDS[name], optimizer=FAST, training=QUICK), **more)  # type: ignore[arg-type]

    whole = train()
    assert whole.log[-1].loss < whole.log[0].loss
    heard: list[EpochLog] = []

    def stop(epoch: EpochLog) -> None:
        heard.append(epoch)
        if len(heard) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(on_epoch=stop, checkpoint=tmp_path / "checkpoint")
    again = train(checkpoint=tmp_path / "checkpoint")
    assert bits(again) == bits(whole)
    assert [replace(epoch, seconds=0) for epoch in again.log] == [replace(epoch, seconds=0) for epoch in whole.log]


def test_attributes_and_a_margin_loss_are_trained_together(tmp_path: Path) -> None:
    store, records = toy_attributes(tmp_path)
    alone = train_head(store, records, HeadRecipe(KINDS["attributes"], optimizer=FAST, training=QUICK))
    both = train_head(
        store, records, HeadRecipe(KINDS["attributes"], ArcFaceConfig(scale=8.0), optimizer=FAST, training=QUICK)
    )
    assert both.log[0].loss > alone.log[0].loss + 1
    assert both.log[-1].loss < both.log[0].loss
    assert both.fingerprint != alone.fingerprint


def test_a_head_is_saved_and_loaded_whole(tmp_path: Path) -> None:
    store, records = toy_attributes(tmp_path)
    head = train_head(store, records, HeadRecipe(MultilabelHeadConfig(), optimizer=FAST, training=QUICK))
    head.save(tmp_path / "head")
    loaded = Head.load(tmp_path / "head", head.identity)
    features = np.asarray(store.read(records.digests))
    assert np.array_equal(loaded(features), head(features))
    assert (loaded.dim, loaded.summary) == (12, head.summary)


def test_the_epoch_is_chosen_by_images_of_every_class_and_then_all_are_trained_on(tmp_path: Path) -> None:
    store, records = toy_attributes(tmp_path)
    head = train_head(store, records, HeadRecipe(KINDS["attributes"], optimizer=FAST, training=QUICK))
    assert head.summary.chosen_by == "mMP@5 on 12 held-out images; then all were trained on"
    assert [epoch.phase for epoch in head.log] == ["choose"] * 4 + ["train"] * head.summary.epoch
    retained = train_head(
        store, records, HeadRecipe(replace(KINDS["attributes"], refit=False), optimizer=FAST, training=QUICK)
    )
    assert retained.summary.chosen_by == "mMP@5 on 12 held-out images, which it did not learn"
    assert {epoch.phase for epoch in retained.log} == {"choose"}


def test_of_each_class_of_four_rows_or_more_the_share_is_held_out_and_of_smaller_ones_nothing() -> None:
    labels = ["a"] * 10 + ["b"] * 4 + ["c"] * 3
    held = held_rows(labels, 0.3, np.random.default_rng(0))
    assert held is not None
    assert [int(held[[label == name for label in labels]].sum()) for name in "abc"] == [3, 2, 0]
    assert held_rows(["a"] * 3, 0.3, np.random.default_rng(0)) is None
    assert held_rows(labels, 0.0, np.random.default_rng(0)) is None


def test_a_missing_value_trains_nothing(tmp_path: Path) -> None:
    """With every second colour missing, the network is that of the colours that are known."""
    store, records = toy_attributes(tmp_path)
    config = MultilabelHeadConfig(dim=8)
    colours = [*records.attribute("colour")]
    hidden = with_columns(records, {"attributes.colour": [c if at % 2 else None for at, c in enumerate(colours)]})
    one = train_head(store, hidden, HeadRecipe(config, optimizer=FAST, training=replace(QUICK, holdout=0.0)))
    full = train_head(store, records, HeadRecipe(config, optimizer=FAST, training=replace(QUICK, holdout=0.0)))
    assert bits(one) != bits(full)
    assert one.log[-1].loss < one.log[0].loss


def test_other_attributes_are_another_head_and_other_seeds_are_other_weights(tmp_path: Path) -> None:
    store, records = toy_attributes(tmp_path)
    for config in (MultilabelHeadConfig(dim=8), PosteriorHeadConfig(dim=0)):
        identity = head_identity(store, records, config)
        swapped = with_columns(records, {"attributes.colour": [*reversed(records.attribute("colour"))]})
        assert head_identity(store, swapped, config).fingerprint != identity.fingerprint
        assert head_identity(store, records, config, seed=1).fingerprint != identity.fingerprint


def test_an_attribute_that_cannot_be_learned_is_left_out_only_if_the_settings_say_so(tmp_path: Path) -> None:
    store, records = toy_attributes(tmp_path)
    records = with_columns(records, {"attributes.season": ["fall"] * len(records)})
    config = MultilabelHeadConfig(dim=8, attributes=AttributesConfig(unusable="leave_out"))
    head = train_head(store, records, HeadRecipe(config, optimizer=FAST, training=QUICK))
    assert head.summary.left_out == ["season"]
    without = records.table.drop_columns("attributes.season")
    plain = train_head(store, type(records)(without, {}), HeadRecipe(config, optimizer=FAST, training=QUICK))
    assert bits(head) == bits(plain)


@pytest.mark.parametrize(
    ("head", "more", "message"),
    [
        (MultilabelHeadConfig(), {"training": TrainingConfig(anchor=(0.0, 1.0))}, "start and anchor are for linear"),
        (PosteriorHeadConfig(), {"loss": ArcFaceConfig()}, "is a closed form and learns attributes: leave loss out"),
    ],
)
def test_what_a_head_of_attributes_has_no_use_for_is_refused(
    head: MultilabelHeadConfig | PosteriorHeadConfig, more: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        HeadRecipe(head, **more)  # type: ignore[arg-type]
