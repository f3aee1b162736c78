"""Heads that are fitted, heads that start at what was fitted, and what is kept between the two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.errors import RecordsError
from stages.training import (
    ArcFaceConfig,
    BatchNormHeadConfig,
    HeadConfig,
    HeadRecipe,
    InputsConfig,
    LdaHeadConfig,
    LinearHeadConfig,
    MlpHeadConfig,
    OptimizerConfig,
    PcaHeadConfig,
    TrainingConfig,
    head_identity,
    train_head,
)
from stages.training.heads.networks import Inputs, LinearHead
from stages.training.rows import validation
from stages.training.rows.labelled_rows import in_training_order
from stages.training.weights.initialization import start_network, start_prototypes
from tests.toys.training import classes_of, make_records, toy

TRAIN, HELD = classes_of(20, 8), classes_of(8, 6, first=50)
LOSS = ArcFaceConfig(scale=16.0)
LDA = LdaHeadConfig(dim=4)
SHORT = TrainingConfig(epochs=3, batch_size=32)


def test_a_closed_form_needs_no_loss_and_is_what_it_fits_to_the_training_rows(tmp_path: Path) -> None:
    features, records = toy(tmp_path, TRAIN)
    head = train_head(features, records, LDA)
    records = in_training_order(records)
    rows = features.read(records.digests)
    classes = torch.tensor([sorted(set(records.classes), key=str).index(name) for name in records.classes])
    fitted = LDA.fit(torch.from_numpy(np.asarray(rows)), classes, torch.zeros_like(classes), [16], 0)
    with torch.inference_mode():
        assert head(rows).tobytes() == fitted(torch.from_numpy(np.asarray(rows))).numpy().tobytes()
    assert head.log == ()
    assert (head.summary.epoch, head.summary.chosen_by) == (0, "a closed form: nothing is trained")


def test_the_identity_of_a_closed_form_does_not_hold_how_others_are_trained(tmp_path: Path) -> None:
    features, records = toy(tmp_path, TRAIN)
    plain = head_identity(features, records, LDA)
    slower = OptimizerConfig(lr=1.0)
    assert (
        head_identity(features, records, HeadRecipe(LDA, optimizer=slower, training=TrainingConfig(epochs=3))) == plain
    )
    assert head_identity(features, records, HeadRecipe(LDA, training=TrainingConfig(minimum_class_size=3))) != plain
    assert head_identity(features, records, replace(LDA, dim=3)) != plain
    assert head_identity(features, records, LDA, LOSS) != plain


@pytest.mark.parametrize(
    ("head", "start"),
    [(LDA, None), (LinearHeadConfig(dim=4), LDA), (MlpHeadConfig(dim=4, hidden=(8,)), LDA)],
    ids=["closed form", "linear", "mlp"],
)
def test_training_starts_at_the_closed_form_and_leaves_it(
    tmp_path: Path, head: HeadConfig, start: LdaHeadConfig | None
) -> None:
    features, records = toy(tmp_path, TRAIN)
    rows = features.read(records.digests)
    alone = train_head(features, records, LDA)(rows)
    still = OptimizerConfig(lr=1e-12, final_lr=0.0, weight_decay=0.0)
    training = replace(SHORT, holdout=0.0)
    begun = train_head(features, records, HeadRecipe(head, LOSS, start=start, optimizer=still, training=training))
    np.testing.assert_allclose(begun(rows), alone, atol=1e-6)
    trained = train_head(features, records, HeadRecipe(head, LOSS, start=start, training=training))
    assert np.abs(trained(rows) - alone).max() > 1e-2


def test_a_start_alone_is_a_linear_head_of_its_own_size_of_weights_to_the_last_bit(tmp_path: Path) -> None:
    features, records = toy(tmp_path, TRAIN)
    rows = features.read(records.digests)
    alone = train_head(features, records, LDA)
    started = train_head(features, records, HeadRecipe(LinearHeadConfig(dim=4), start=LDA))
    assert alone(rows).tobytes() == started(rows).tobytes()


def test_the_scale_of_a_start_is_a_power_of_two_that_brings_its_weights_to_the_size_of_drawn_ones() -> None:
    inputs = Inputs(InputsConfig(center=False, rescale="none"), [48])
    weight = torch.randn(4, 48, generator=torch.Generator().manual_seed(0)) * 1000
    fitted = LinearHead(inputs, weight, torch.ones(4))
    rows = torch.randn(9, 48, generator=torch.Generator().manual_seed(1))
    network = start_network(LinearHeadConfig(dim=4), fitted, rows, [48], torch.Generator())
    assert isinstance(network, LinearHead)
    ratio = network.weight.detach() / weight
    assert float(ratio.flatten()[0]).hex().startswith("0x1.0000000000000p")
    assert bool((ratio == ratio.flatten()[0]).all())
    drawn = LinearHeadConfig(dim=64).build([48], torch.Generator().manual_seed(0))
    sizes = [float(network.weight.detach().square().mean().sqrt()) for network in (network, drawn)]
    assert 2**-0.6 < sizes[0] / sizes[1] < 2**0.6
    with torch.inference_mode():
        assert torch.equal(network(rows), fitted(rows))


@pytest.mark.parametrize("subcenters", [1, 3])
def test_prototypes_start_at_the_means_of_the_embeddings_of_their_classes(subcenters: int) -> None:
    generator = torch.Generator().manual_seed(0)
    network = LinearHeadConfig(dim=5, inputs=InputsConfig(center=False, rescale="none")).build([7], generator)
    rows = torch.randn(11, 7, generator=generator)
    labels = torch.tensor([0, 1, 2, 0, 1, 0, 0, 1, 0, 1, 1])
    loss = ArcFaceConfig(subcenters=subcenters).build(5, torch.bincount(labels), generator)
    before = float(loss.weight.detach().square().mean().sqrt())
    start_prototypes(loss.prototypes, network, rows, labels)
    embeddings = [network(row[None])[0].detach() for row in rows]
    for place in range(3):
        members = [embeddings[row] for row in range(11) if labels[row] == place]
        for turn in range(subcenters):
            own = members[turn::subcenters] or members
            mean = torch.stack(own).sum(0)
            prototype = loss.weight[turn * 3 + place].detach()
            torch.testing.assert_close(prototype / prototype.norm(), mean / mean.norm(), atol=1e-6, rtol=1e-5)
    assert 0.6 < float(loss.weight.detach().square().mean().sqrt()) / before < 1.7


# The anchor


def anchored(folder: Path, shares: tuple[float, ...]) -> tuple[float | None, np.ndarray, list[np.ndarray]]:
    """The share that was chosen, the head's weights, and those at its start and after the kept epoch."""
    features, _ = toy(folder, TRAIN | HELD)
    records, held = make_records(TRAIN), make_records(HELD)
    optimizer = OptimizerConfig(lr=3e-2)
    head = train_head(
        features,
        records,
        HeadRecipe(LDA, LOSS, optimizer=optimizer, training=replace(SHORT, anchor=shares)),
        validation=(held, held),
    )
    whole = train_head(
        features, records, HeadRecipe(LDA, LOSS, optimizer=optimizer, training=SHORT), validation=(held, held)
    )
    start = train_head(features, records, HeadRecipe(LinearHeadConfig(dim=4), start=LDA))
    mine, *others = (trained.network.state_dict()["weight"].numpy() for trained in (head, start, whole))
    return head.summary.anchor, mine, others


def test_an_anchor_of_zero_alone_gives_the_start(tmp_path: Path) -> None:
    share, weight, (start, trained) = anchored(tmp_path, (0.0,))
    assert share == 0
    assert weight.tobytes() == start.tobytes()
    assert np.abs(trained - start).max() > 1e-3


def test_the_weights_are_mixed_by_the_share_that_scores_best_on_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = validation.ValidationSet.score
    calls: list[float] = []

    def scripted(searched: validation.ValidationSet, network: torch.nn.Module) -> float:
        calls.append(plain(searched, network))
        return {4: 0.1, 5: 0.3, 6: 0.9, 7: 0.9}.get(len(calls), 0.5)  # three epochs, then the shares in order

    monkeypatch.setattr(validation.ValidationSet, "score", scripted)
    share, weight, (start, trained) = anchored(tmp_path, (0.0, 0.25, 0.75, 1.0))
    assert share == 0.75  # of equals the smaller
    np.testing.assert_allclose(weight, 0.25 * start + 0.75 * trained, atol=1e-6)


def test_without_validation_records_held_out_classes_choose_the_share(tmp_path: Path) -> None:
    features, records = toy(tmp_path, TRAIN)
    head = train_head(
        features, records, HeadRecipe(LDA, LOSS, training=replace(SHORT, anchor=(0.0, 0.5, 1.0), holdout=0.3))
    )
    assert head.summary.anchor in (0.0, 0.5, 1.0)
    with pytest.raises(RecordsError, match="the anchor is chosen by a validation score, and there is none: holdout"):
        train_head(features, records, HeadRecipe(LDA, LOSS, training=replace(SHORT, anchor=(0.0,), holdout=0.0)))


# What does not go together


@pytest.mark.parametrize(
    ("head", "loss", "start", "training", "message"),
    [
        (LinearHeadConfig(dim=4), None, None, SHORT, "a linear head is trained: it needs a loss"),
        (PcaHeadConfig(dim=4), None, LDA, SHORT, "pca is a closed form and its own start: leave start out"),
        (BatchNormHeadConfig(dim=4), LOSS, LDA, SHORT, "start is for linear and residual mlp, not for batchnorm"),
        (MlpHeadConfig(dim=4, residual=False), LOSS, LDA, SHORT, "not for mlp"),
        (LinearHeadConfig(dim=8), LOSS, LDA, SHORT, "start.dim is 4 and dim is 8"),
        (LinearHeadConfig(dim=4, inputs=InputsConfig(root=0.5)), LOSS, LDA, SHORT, "set start.inputs"),
        (LinearHeadConfig(dim=4), LOSS, None, replace(SHORT, anchor=(0.0, 1.0)), "anchor interpolates between a start"),
        (LDA, None, None, replace(SHORT, anchor=(0.0, 1.0)), "anchor interpolates between a start"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    tmp_path: Path,
    head: HeadConfig,
    loss: ArcFaceConfig | None,
    start: LdaHeadConfig | None,
    training: TrainingConfig,
    message: str,
) -> None:
    features, records = toy(tmp_path, TRAIN)
    with pytest.raises(ValueError, match=message):
        train_head(features, records, HeadRecipe(head, loss, start=start, training=training))


def test_an_anchor_without_its_start_among_the_shares_is_refused() -> None:
    with pytest.raises(ValueError, match=r"anchor is shares in .* with 0, the start, among them, got \[0.5, 1.0\]"):
        TrainingConfig(anchor=(0.5, 1.0))
