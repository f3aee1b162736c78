"""Averages over steps, epochs and heads, and sharpness-aware minimisation, each against its definition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.training import (
    BatchNormHeadConfig,
    CosFaceConfig,
    ElasticArcFaceConfig,
    HeadRecipe,
    LinearHeadConfig,
    OptimizerConfig,
    SampledConfig,
    TrainingConfig,
    train_head,
)
from stages.training.loop import Batch, Training
from stages.training.rows.labelled_rows import LabelledRows
from stages.training.training_inputs import prepare
from stages.training.weights.optimizer import WeightAverage, between, mean_of, sam_gradient
from tests.toys.training import classes_of, toy

TRAIN = classes_of(10, 8)
HEAD = LinearHeadConfig(dim=4)
LOSS = CosFaceConfig(scale=16.0)
SHORT = TrainingConfig(epochs=4, batch_size=16, holdout=0.0)
FAST = OptimizerConfig(lr=3e-2, final_lr=1e-3)


def run_of(folder: Path, training: TrainingConfig, **changed: object) -> Training:
    features, records = toy(folder, TRAIN)
    recipe = replace(HeadRecipe(HEAD, LOSS, optimizer=FAST, training=training), **changed)  # type: ignore[arg-type]
    inputs = prepare(features, records, recipe)
    return Training(inputs, LabelledRows.of(features, inputs.records, mapped=False), None, training.epochs)


def weights(run: Training) -> list[Tensor]:
    return [weight.detach().clone() for weight in run.network.parameters()]


def test_the_moving_average_is_the_one_of_a_loop_over_the_steps(tmp_path: Path) -> None:
    run = run_of(tmp_path, replace(SHORT, ema=0.9))
    average, steps = weights(run), 0
    plain = run.learn

    def watched(batch: Batch, step: int) -> float:
        nonlocal average, steps
        value = plain(batch, step)
        steps += 1
        decay = min(0.9, (1 + steps) / (10 + steps))
        average = [decay * old + (1 - decay) * new for old, new in zip(average, weights(run), strict=True)]
        return value

    run.learn = watched  # type: ignore[method-assign]
    for _ in range(4):
        run.epoch()
    assert steps == 20
    assert [*run.best] == [*run.network.state_dict()]
    for name, mine in zip(("weight", "bias"), average, strict=True):
        torch.testing.assert_close(run.best[name], mine, atol=1e-6, rtol=1e-5)
        assert not torch.equal(run.best[name], dict(run.network.named_parameters())[name])


def test_a_soup_of_epochs_is_the_mean_of_the_weights_after_each(tmp_path: Path) -> None:
    run = run_of(tmp_path, replace(SHORT, soup_epochs=3))
    after = []
    for _ in range(4):
        run.epoch()
        after.append(weights(run))
    for place, name in enumerate(("weight", "bias")):
        torch.testing.assert_close(run.best[name], torch.stack([state[place] for state in after[1:]]).mean(0))


def test_a_soup_is_the_mean_of_heads_that_share_a_start_and_differ_in_the_order_of_rows(tmp_path: Path) -> None:
    features, records = toy(tmp_path, TRAIN)
    soup = train_head(features, records, HeadRecipe(HEAD, LOSS, optimizer=FAST, training=replace(SHORT, soup=3)))
    run = run_of(tmp_path / "again", SHORT)
    members = [replace(run, member=member) for member in (1, 2, 3)]
    assert all(torch.equal(member.start["weight"], run.start["weight"]) for member in members)
    for member in members:
        for _ in range(4):
            member.epoch()
    best = [member.best["weight"] for member in members]
    assert not torch.equal(best[0], best[1])
    torch.testing.assert_close(soup.network.state_dict()["weight"], torch.stack(best).mean(0))
    assert [(epoch.member, epoch.epoch) for epoch in soup.log] == [(m, n) for m in (1, 2, 3) for n in (1, 2, 3, 4)]
    alone = train_head(features, records, HeadRecipe(HEAD, LOSS, optimizer=FAST, training=SHORT))
    assert torch.equal(alone.network.state_dict()["weight"], best[0])


def test_statistics_are_not_averaged_but_the_last_ones(tmp_path: Path) -> None:
    run = run_of(tmp_path, replace(SHORT, ema=0.9, soup_epochs=2), head=BatchNormHeadConfig(dim=4))
    for _ in range(3):
        run.epoch()
    assert torch.equal(run.best["running_mean"], run.network.state_dict()["running_mean"])


def test_between_two_sets_of_weights_the_ends_are_exact_and_the_middle_is_in_the_middle() -> None:
    start, trained = (
        {"w": torch.tensor([1.0, 2.0]), "b": torch.zeros(1)},
        {"w": torch.tensor([3.0, 2.5]), "b": torch.ones(1)},
    )
    assert between(start, trained, 0, ["w"])["w"] is start["w"]
    assert between(start, trained, 1, ["w"])["w"] is trained["w"]
    middle = between(start, trained, 0.5, ["w"])
    assert middle["w"].tolist() == [2.0, 2.25]
    assert middle["b"].tolist() == [1.0]
    assert mean_of([start, trained], ["w"])["w"].tolist() == [2.0, 2.25]


def test_without_an_average_the_weights_themselves_are_shown() -> None:
    network = nn.Linear(2, 2)
    shown = WeightAverage(network, 0.0, 1).after_epoch()
    assert torch.equal(shown["weight"], network.weight)
    assert shown["weight"].data_ptr() != network.weight.data_ptr()


# Sharpness-aware minimisation


def test_the_sharp_gradient_is_the_one_at_the_worst_place_near_by_hand() -> None:
    first, second = (nn.Parameter(torch.tensor(value)) for value in ([1.0, -2.0], [0.5]))

    def value() -> Tensor:
        loss = (first**4).sum() + (second**3).sum() * first[0]
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def forget() -> None:
        first.grad = second.grad = None

    x, y, z, rho = 1.0, -2.0, 0.5, 0.1
    gradient = (4 * x**3 + z**3, 4 * y**3, 3 * z**2 * x)
    length = sum(part**2 for part in gradient) ** 0.5
    x, y, z = (place + rho * part / length for place, part in zip((x, y, z), gradient, strict=True))
    loss = sam_gradient(value, forget, [first, second], [], rho)
    assert float(loss) == pytest.approx(1 + 16 + 0.125)
    assert first.grad is not None
    assert second.grad is not None
    torch.testing.assert_close(first.grad, torch.tensor([4 * x**3 + z**3, 4 * y**3]))
    torch.testing.assert_close(second.grad, torch.tensor([3 * z**2 * x]))
    assert first.tolist() == [1.0, -2.0]  # to the bit where they were
    assert second.tolist() == [0.5]


def test_a_step_of_sam_draws_the_same_dropout_and_margins_twice_and_learns_from_a_batch_once(tmp_path: Path) -> None:
    changed = {"head": BatchNormHeadConfig(dim=4, dropout=0.5), "loss": ElasticArcFaceConfig(scale=16.0)}
    sharp, plain = (run_of(tmp_path / str(rho), replace(SHORT, sam_rho=rho), **changed) for rho in (1e-12, 0.0))
    for run in (sharp, plain):
        run.epoch()
    for name, tensor in plain.network.state_dict().items():
        torch.testing.assert_close(sharp.network.state_dict()[name], tensor, atol=1e-5, rtol=1e-4)
    assert torch.equal(sharp.dropout.get_state(), plain.dropout.get_state())


def test_sam_goes_with_sampled_classes_whose_table_does_not_move(tmp_path: Path) -> None:
    sampled = CosFaceConfig(scale=16.0, sampled=SampledConfig(share=0.5))
    run = run_of(tmp_path, replace(SHORT, sam_rho=0.1), loss=sampled)
    for _ in range(4):
        run.epoch()
    first = [epoch.loss for epoch in run.log]
    assert np.isfinite(first).all()
    assert first[-1] < first[0]
