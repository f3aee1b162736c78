"""Recipes: one word of a run file for all settings of a head."""

from __future__ import annotations

import pytest

from cache.errors import ConfigError
from pipeline.config import HeadRun, parse_config
from pipeline.recipes import recipes, with_recipe
from stages.training import ArcFaceConfig, CosFaceConfig, LinearHeadConfig, NormFaceConfig
from stages.training.closed_form import DiscriminantHeadConfig

RUN = """
artifacts = "out"
[dataset]
kind = "folder"
path = "images"
[[backbones]]
kind = "bundled"
[[heads]]
name = "best"
"""


def head(text: str) -> HeadRun:
    return parse_config(RUN + text).heads[0]


@pytest.mark.parametrize("name", sorted(recipes()))
@pytest.mark.parametrize("dim", [16, 512])
def test_every_recipe_is_a_head_of_any_size(name: str, dim: int) -> None:
    assert head(f'recipe = "{name}"\ndim = {dim}').head.dim == dim


def test_the_default_starts_at_a_discriminant_of_its_own_size_and_may_keep_it() -> None:
    found = head('recipe = "default"\ndim = 32')
    assert isinstance(found.start, DiscriminantHeadConfig)
    assert found.start.dim == 32
    assert 0 in found.training.anchor


def test_unifex_is_as_published() -> None:
    found = head('recipe = "unifex"')
    assert isinstance(found.head, LinearHeadConfig)
    assert (found.head.dim, found.head.dropout, found.head.inputs.center) == (64, 0.2, False)
    assert found.loss == ArcFaceConfig(margin_rad=0.5, subcenters=3, scale=30.0)
    optimizer, training = found.optimizer, found.training
    assert (optimizer.kind, optimizer.lr, optimizer.final_lr) == ("adam", 2e-2, 1e-3)
    assert (optimizer.warmup_epochs, training.batch_size, training.epochs) == (1.0, 128, 10)


def test_keys_of_the_head_come_before_those_of_the_recipe() -> None:
    found = head('recipe = "default"\ndropout = 0.5\nloss = { scale = 8.0 }\ntraining = { epochs = 3 }')
    assert isinstance(found.head, LinearHeadConfig)
    assert isinstance(found.loss, NormFaceConfig)
    assert (found.head.dropout, found.loss.kind, found.loss.scale) == (0.5, "normface", 8.0)
    assert (found.training.epochs, found.training.batch_size) == (3, 256)


def test_a_table_of_another_kind_takes_the_place_of_the_recipes() -> None:
    found = head('recipe = "default"\nloss = { kind = "cosface" }')
    assert isinstance(found.loss, CosFaceConfig)
    assert (found.loss.kind, found.loss.scale) == ("cosface", 30.0)


def test_an_unknown_recipe_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"heads\[0\]\.recipe must be one of default, .*unifex, got 'best'"):
        head('recipe = "best"')


def test_without_a_recipe_nothing_is_added() -> None:
    assert with_recipe({"name": "a", "dim": 8}) == {"name": "a", "dim": 8}
