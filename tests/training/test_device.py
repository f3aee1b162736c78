"""Training on another device than the CPU: what it needs is moved there, and what cannot be trained there is refused.

No test has a card. Tensors on ``meta`` have a shape and a device and no numbers: an operation on one of them and a
tensor on the CPU raises as it would on a card.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stages.training import (
    AdaFaceConfig,
    ArcFaceConfig,
    BatchNormHeadConfig,
    CosFaceConfig,
    HeadConfig,
    HeadRecipe,
    LinearHeadConfig,
    LossConfig,
    MagFaceConfig,
    MlpHeadConfig,
    MultilabelHeadConfig,
    NormFaceConfig,
    TrainingConfig,
    loop,
    train_head,
)
from stages.training.loop import Batch, Training
from stages.training.pairs.kinds import ProxyAnchorConfig, TripletConfig
from stages.training.rows.labelled_rows import LabelledRows
from stages.training.training_inputs import prepare
from tests.toys.training import classes_of, toy

CARD = torch.device("meta")
SHORT = TrainingConfig(epochs=1, batch_size=16, holdout=0.0)


@pytest.mark.parametrize(
    ("head", "loss"),
    [
        (LinearHeadConfig(dim=4, nested=(2,)), ArcFaceConfig(subcenters=2)),
        (BatchNormHeadConfig(dim=4), NormFaceConfig()),
        (MlpHeadConfig(dim=4, hidden=(8,)), CosFaceConfig(label_smoothing=0.1)),
        (LinearHeadConfig(dim=4), AdaFaceConfig()),
        (LinearHeadConfig(dim=4), MagFaceConfig()),
    ],
    ids=lambda config: config.kind,
)
def test_a_gradient_mixes_no_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: HeadConfig, loss: LossConfig
) -> None:
    features, records = toy(tmp_path, classes_of(6, 4))
    inputs = replace(
        prepare(features, records, HeadRecipe(replace(head, dim=4), loss, training=SHORT)), device=str(CARD)
    )
    monkeypatch.setattr(loop, "_generator_on", lambda *_: None)  # there is none on meta: nothing is dropped
    run = Training(inputs, LabelledRows.of(features, records), None, 1)
    batch = Batch(
        torch.empty(8, features.dim, device=CARD),
        torch.empty(8, dtype=torch.int64, device=CARD),
        torch.empty(8, dtype=torch.int64, device=CARD),
    )
    assert run._gradient(batch).device == CARD
    for weight in [*run.network.parameters(), *run.loss.parameters()]:
        assert weight.device == CARD
        assert weight.grad is not None
        assert weight.grad.device == CARD
    assert {tensor.device.type for tensor in run.start.values()} == {"cpu"}


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (HeadRecipe(LinearHeadConfig(dim=4), TripletConfig()), "the loss triplet is trained on the CPU"),
        (HeadRecipe(LinearHeadConfig(dim=4), ProxyAnchorConfig()), "the loss proxy_anchor is trained on the CPU"),
        (HeadRecipe(MultilabelHeadConfig(task="tags")), "a multilabel head is trained on the CPU"),
    ],
)
def test_what_is_trained_on_the_cpu_alone_is_refused(tmp_path: Path, recipe: HeadRecipe, message: str) -> None:
    from stages.training.training_inputs import check_device

    with pytest.raises(ValueError, match=message):
        check_device(recipe, "cuda")
    check_device(recipe, "cpu")


def test_the_device_is_recorded_and_is_not_part_of_the_identity(tmp_path: Path) -> None:
    features, records = toy(tmp_path, classes_of(6, 4))
    recipe = HeadRecipe(LinearHeadConfig(dim=4), ArcFaceConfig(), training=SHORT)
    head = train_head(features, records, recipe, device="cpu")
    assert head.summary.device == "cpu"
    assert head.identity == prepare(features, records, recipe).identity()
    assert replace(prepare(features, records, recipe), device=str(CARD)).identity() == head.identity


def test_a_device_that_does_not_exist_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    features, records = toy(tmp_path, classes_of(6, 4))
    with pytest.raises(ValueError, match="device must be cpu, cuda or cuda:NUMBER, got 'gpu'"):
        train_head(features, records, HeadRecipe(LinearHeadConfig(dim=4), ArcFaceConfig()), device="gpu")
