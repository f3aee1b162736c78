"""A loss whose classes two processes share out is that of one process: value, gradients, steps, a trained head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cache.errors import SettingsError
from stages.training import (
    ArcFaceConfig,
    HeadRecipe,
    LinearHeadConfig,
    PcaHeadConfig,
    SampledConfig,
    TrainingConfig,
    train_head,
)
from stages.training.losses.shards import Shard
from stages.training.pairs.kinds import ContrastiveConfig
from stages.training.recipe import as_recipe
from stages.training.training_inputs import check_group
from tests.forks import Forks
from tests.toys.losses import CLASSES, FAMILY
from tests.toys.sharded import RECIPE, alone
from tests.toys.training import classes_of, toy


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["streamed", "plain"])
def test_two_processes_compute_the_loss_of_one(kernel: str, tmp_path: Path) -> None:
    with Forks("tests.toys.sharded:family") as forks:
        assert forks.run(str(tmp_path), kernel) == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for config, whole, one, other in zip(FAMILY, alone(kernel), first, second, strict=True):
        assert len(whole) == len(one) == len(other)
        for place, (expected, left, right) in enumerate(zip(whole, one, other, strict=True)):
            if place % 3 == 2 and place < 9:  # the prototypes: three classes and four
                k = config.subcenters
                left, right = left.view(k, CLASSES // 2, -1), right.view(k, CLASSES - CLASSES // 2, -1)
                left = torch.cat([left, right], 1).view_as(expected)
            else:
                torch.testing.assert_close(left, right, rtol=0, atol=0)
            torch.testing.assert_close(left, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.slow
def test_two_processes_train_the_head_of_one(tmp_path: Path) -> None:
    with Forks("tests.toys.sharded:head") as forks:
        assert forks.run(str(tmp_path)) == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    features, records = toy(tmp_path / "alone", classes_of(9, 6))
    head = train_head(features, records, RECIPE, seed=3)
    assert (first["processes"], head.summary.processes) == (2, 1)
    for name, weight in head.weights.items():
        torch.testing.assert_close(first["weights"][name], second["weights"][name], rtol=0, atol=0)
        torch.testing.assert_close(first["weights"][name], torch.tensor(weight), rtol=1e-3, atol=1e-4)
    assert first["log"] == second["log"]
    assert first["log"] == pytest.approx([epoch.loss for epoch in head.log], abs=1e-4)


@pytest.mark.parametrize("classes", [1, 7, 70_000])
def test_a_part_of_the_prototypes_is_drawn_as_in_the_whole(classes: int) -> None:
    whole = torch.nn.init.xavier_uniform_(torch.empty(2 * classes, 3), generator=torch.Generator().manual_seed(5))
    for low, high in ((0, classes // 2), (classes // 2, classes)):
        drawn = Shard(classes, low, high).draw(2, 3, torch.Generator().manual_seed(5))
        torch.testing.assert_close(drawn, whole.view(2, classes, 3)[:, low:high].flatten(0, 1), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (as_recipe(PcaHeadConfig(dim=4)), "a pca head has none: train it in one process"),
        (HeadRecipe(LinearHeadConfig(dim=4), ContrastiveConfig()), "the loss contrastive has none"),
        (HeadRecipe(LinearHeadConfig(dim=4), ArcFaceConfig(), start=PcaHeadConfig(dim=4)), "leave start out"),
        (replace(RECIPE, loss=ArcFaceConfig(sampled=SampledConfig())), r"leave loss\.sampled out"),
        (replace(RECIPE, training=TrainingConfig(sam_rho=0.05)), r"leave training\.sam_rho out"),
    ],
    ids=str,
)
def test_what_processes_cannot_share_out_is_refused_by_name(recipe: HeadRecipe, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_group(recipe)
