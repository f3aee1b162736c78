"""Heads other than the plain linear one, each against its definition."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cache import Identity
from cache.fingerprint import canonical_json
from stages.training import (
    ArcFaceConfig,
    BatchNormHeadConfig,
    Head,
    HeadConfig,
    HeadRecipe,
    InputsConfig,
    LinearHeadConfig,
    MlpHeadConfig,
    PcaHeadConfig,
    TrainingConfig,
    TrainingSummary,
    train_head,
)
from stages.training.heads.networks import BatchNormHead, MlpHead, drop
from stages.training.loop import Batch, Training
from stages.training.losses.kernel import MarginSoftmax
from stages.training.rows.labelled_rows import LabelledRows
from stages.training.training_inputs import prepare
from tests.toys.training import classes_of, toy

DIM = 12
PLAIN = InputsConfig(center=False, rescale="none")
ROWS = torch.randn(40, DIM, generator=torch.Generator().manual_seed(1)) * 3 + 1
EVERY: list[HeadConfig] = [
    LinearHeadConfig(dim=4, dropouts=(0.1, 0.3), nested=(2,)),
    BatchNormHeadConfig(dim=4, dropout=0.2),
    MlpHeadConfig(dim=4, hidden=(8, 6)),
    MlpHeadConfig(dim=4, hidden=(8,), residual=False, activation="relu"),
]


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("config", EVERY, ids=["linear", "batchnorm", "residual mlp", "mlp"])
def test_a_head_of_every_kind_trains_and_survives_its_file_to_the_last_bit(tmp_path: Path, config: HeadConfig) -> None:
    features, records = toy(tmp_path / "features", classes_of(8, 8))
    head = train_head(
        features, records, HeadRecipe(config, ArcFaceConfig(scale=16.0), training=TrainingConfig(epochs=2))
    )
    head.save(tmp_path / "head")
    loaded = Head.load(tmp_path / "head", head.identity)
    rows = features.read(records.digests)
    assert loaded(rows).tobytes() == head(rows).tobytes()
    np.testing.assert_allclose(np.linalg.norm(head(rows), axis=1), 1, atol=1e-6)
    assert loaded.config == config
    assert loaded.summary == head.summary


def test_several_dropouts_are_the_mean_of_the_map_over_one_of_each() -> None:
    shares = (0.1, 0.5, 0.75)
    config = LinearHeadConfig(dim=3, dropouts=shares, inputs=PLAIN)
    network = config.build([DIM], drawn())
    together, generator = network.project(ROWS, drawn(7)), drawn(7)
    singly = [torch.nn.functional.linear(drop(ROWS, [s], generator), network.weight, network.bias) for s in shares]
    torch.testing.assert_close(together, torch.stack(singly).mean(0))
    assert torch.equal(network.project(ROWS), torch.nn.functional.linear(ROWS, network.weight, network.bias))


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_drops_the_share_each_number_by_itself(share: float) -> None:
    ones = torch.ones(400, 500)
    dropped = drop(ones, [share], drawn())
    assert (dropped == 0).float().mean().item() == pytest.approx(share, abs=0.004)
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    zeros = (dropped == 0).double()
    beside = ((zeros[:, 1:] - share) * (zeros[:, :-1] - share)).mean().item()
    assert abs(beside) < 0.002  # neighbours come from one random word
    assert drop(ones, [0.0], drawn()) is ones


def test_batch_norm_standardizes_by_the_batch_in_training_and_by_the_running_statistics_otherwise() -> None:
    network = BatchNormHeadConfig(dim=3, momentum=0.25).build([DIM], drawn())
    network.observe(ROWS)
    mean, variance = ROWS.double().mean(0), ROWS.double().var(0, unbiased=False)
    torch.testing.assert_close(network.running_mean.double(), mean, atol=1e-6, rtol=1e-6)
    batch = ROWS[:10] + 5
    normal = (batch - batch.mean(0)) / (batch.var(0, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(
        network.project(batch, drawn()), torch.nn.functional.linear(normal, network.weight, network.bias)
    )
    moved = 0.75 * mean + 0.25 * batch.double().mean(0)
    torch.testing.assert_close(network.running_mean.double(), moved, atol=1e-5, rtol=1e-5)
    spread = 0.75 * variance + 0.25 * batch.double().var(0)
    settled = ((batch - moved) / (spread + 1e-6).sqrt()).float()
    torch.testing.assert_close(
        network.project(batch), torch.nn.functional.linear(settled, network.weight, network.bias), atol=1e-4, rtol=1e-4
    )


def test_a_batch_of_one_row_is_normalised_by_the_running_statistics() -> None:
    network = BatchNormHeadConfig(dim=3).build([DIM], drawn())
    network.observe(ROWS)
    assert torch.equal(network.project(ROWS[:1], drawn()), network.project(ROWS[:1]))


def test_the_features_of_a_batch_norm_head_may_come_in_blocks() -> None:
    whole, pieces = (BatchNormHeadConfig(dim=3).build([DIM], drawn()) for _ in range(2))
    whole.observe(ROWS)
    pieces.observe(_Pieces())
    torch.testing.assert_close(whole.running_variance, pieces.running_variance)


class _Pieces:
    def __len__(self) -> int:
        return len(ROWS)

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(torch.split(ROWS, 7))


def test_hidden_layers_are_maps_and_activations_beside_a_linear_map() -> None:
    network = MlpHeadConfig(dim=3, hidden=(8, 6), activation="relu", inputs=PLAIN).build([DIM], drawn())
    linear = ROWS @ network.weight.T + network.bias
    torch.testing.assert_close(network.project(ROWS), linear)  # the last layer begins at zero
    with torch.no_grad():
        network.weights[-1].normal_(generator=drawn())
    for row, given in zip(ROWS, network.project(ROWS), strict=True):
        hidden = row
        for weight, bias in zip(network.weights[:2], network.biases[:2], strict=True):
            hidden = (weight @ hidden + bias).clamp(min=0)
        expected = network.weights[2] @ hidden + network.biases[2] + network.weight @ row + network.bias
        torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)


def nested_run(folder: Path, config: LinearHeadConfig) -> Training:
    features, records = toy(folder, classes_of(6, 8))
    setup = prepare(features, records, HeadRecipe(config, ArcFaceConfig(scale=16.0)))
    return Training(setup, LabelledRows.of(features, records, mapped=False), None, 1)


def test_the_loss_of_nested_sizes_is_the_sum_over_them_with_the_first_numbers_of_one_set_of_prototypes(
    tmp_path: Path,
) -> None:
    run = nested_run(tmp_path, LinearHeadConfig(dim=8, nested=(2, 4), dropout=0.0))
    assert isinstance(run.loss, MarginSoftmax)
    batch, labels = torch.randn(10, 16, generator=drawn()), torch.arange(10) % 6
    value = run._gradient(Batch(run.network.inputs(batch), labels, torch.arange(10)))
    assert isinstance(run.loss, MarginSoftmax)
    trained = [dict(run.network.named_parameters())["weight"], run.loss.weight]
    given = [weight.grad for weight in trained]
    for weight in trained:
        weight.grad = None
    total: Tensor = torch.zeros(())
    for size in (2, 4, 8):
        alone = ArcFaceConfig(scale=16.0).build(size, torch.ones(6, dtype=torch.int64), drawn())
        weights = {"weight": run.loss.weight[:, :size]}
        embeddings = run.network.project(batch, drawn())[:, :size]
        total = total + torch.func.functional_call(alone, weights, (embeddings, labels))
    total.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(value, total.detach())
    for one, weight in zip(given, trained, strict=True):
        torch.testing.assert_close(one, weight.grad)


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (LinearHeadConfig, {"dropouts": (0.5, 1.0)}, r"dropouts is the share .* in \[0, 1\), got \[0.5, 1.0\]"),
        (LinearHeadConfig, {"dim": 8, "nested": (4, 2)}, r"nested are sizes below dim \(8\).* ascending, got \[4, 2\]"),
        (LinearHeadConfig, {"dim": 8, "nested": (8,)}, r"nested are sizes below dim \(8\)"),
        (BatchNormHeadConfig, {"momentum": 0.0}, r"momentum is the share of a batch"),
        (BatchNormHeadConfig, {"dim": 0}, "dim is the size of an embedding"),
        (MlpHeadConfig, {"hidden": ()}, "hidden are the sizes of the hidden layers"),
        (MlpHeadConfig, {"activation": "tanh"}, "activation is relu or gelu, got 'tanh'"),
    ],
)
def test_a_bad_setting_is_refused(config: type, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**settings)


def test_a_head_without_a_file_for_its_steps_before_the_map_keeps_those_it_was_made_with(tmp_path: Path) -> None:
    steps = InputsConfig(root=0.5, unit=True, rescale="unit")
    network = LinearHeadConfig(dim=3, inputs=steps).build([8, 4], drawn())
    network.observe(ROWS)
    described = {"head": asdict(LinearHeadConfig(dim=3)), "features": "f" * 64}
    described["head"] = {**described["head"], "dropouts": [], "nested": []}  # type: ignore[dict-item]
    canonical_json(described)  # type: ignore[arg-type]
    summary = TrainingSummary(40, 4, 0, 0, 0, "a start whose steps are its own")
    head = Head.of(LinearHeadConfig(dim=3), Identity(described), network, summary, ())  # type: ignore[arg-type]
    head.save(tmp_path)
    loaded = Head.load(tmp_path)
    assert loaded.network.inputs.config == steps
    assert loaded.network.inputs.blocks == (8, 4)
    assert loaded(ROWS.numpy()).tobytes() == head(ROWS.numpy()).tobytes()


def test_networks_have_the_type_of_their_kind() -> None:
    assert isinstance(EVERY[1].build([DIM], drawn()), BatchNormHead)
    assert isinstance(EVERY[2].build([DIM], drawn()), MlpHead)
    assert PcaHeadConfig(dim=2).build([DIM], drawn()).weight.shape == (2, DIM)
