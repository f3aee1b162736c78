"""Recipes: one word of a run file for all settings of a head."""

from __future__ import annotations

import pytest

from cache.errors import ConfigError
from pipeline.config import parse_config
from pipeline.run_files import recipes, with_recipe
from stages.training import ArcFaceConfig, CosFaceConfig, DiscriminantHeadConfig, LinearHeadConfig, NormFaceConfig
from stages.training.recipe import HeadRecipe

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


def head(text: str) -> HeadRecipe:
    return parse_config(RUN + text).heads[0].recipe


@pytest.mark.parametrize("name", sorted(recipes()))
@pytest.mark.parametrize("dim", [16, 512])
def test_every_recipe_is_a_head_of_any_size(name: str, dim: int) -> None:
    assert head(f'recipe = "{name}"\ndim = {dim}').head.dim == dim


def test_the_default_starts_at_a_discriminant_of_its_own_size_and_may_keep_it() -> None:
    recipe = head('recipe = "default"\ndim = 32')
    assert isinstance(recipe.start, DiscriminantHeadConfig)
    assert recipe.start.dim == 32
    assert 0 in recipe.training.anchor


def test_unifex_is_as_published() -> None:
    recipe = head('recipe = "unifex"')
    assert isinstance(recipe.head, LinearHeadConfig)
    assert (recipe.head.dim, recipe.head.dropout, recipe.head.inputs.center) == (64, 0.2, False)
    assert recipe.loss == ArcFaceConfig(margin_rad=0.5, subcenters=3, scale=30.0)
    optimizer, training = recipe.optimizer, recipe.training
    assert (optimizer.kind, optimizer.lr, optimizer.final_lr) == ("adam", 2e-2, 1e-3)
    assert (optimizer.weight_decay, optimizer.warmup_epochs, optimizer.schedule) == (1e-4, 1.0, "warmup_times_cosine")
    assert (training.batch_size, training.epochs, training.minimum_class_size, training.keep) == (128, 10, 3, "last")


def test_keys_of_the_head_come_before_those_of_the_recipe() -> None:
    recipe = head('recipe = "default"\ndropout = 0.5\nloss = { scale = 8.0 }\ntraining = { epochs = 3 }')
    assert isinstance(recipe.head, LinearHeadConfig)
    assert isinstance(recipe.loss, NormFaceConfig)
    assert (recipe.head.dropout, recipe.loss.kind, recipe.loss.scale) == (0.5, "normface", 8.0)
    assert (recipe.training.epochs, recipe.training.batch_size) == (3, 256)


def test_a_table_of_another_kind_takes_the_place_of_the_recipes() -> None:
    recipe = head('recipe = "default"\nloss = { kind = "cosface" }')
    assert isinstance(recipe.loss, CosFaceConfig)
    assert (recipe.loss.kind, recipe.loss.scale) == ("cosface", 30.0)


def test_an_unknown_recipe_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"heads\[0\]\.recipe must be one of default, .*unifex, got 'best'"):
        head('recipe = "best"')


OWN = 'recipe = "mine"\ndropout = 0.1\n[recipes.mine]\ndim = 8\ndropout = 0.5\nloss = { kind = "cosface", scale = 8.0 }'


def test_a_run_file_has_recipes_of_its_own() -> None:
    recipe = head(OWN)
    assert isinstance(recipe.head, LinearHeadConfig)
    assert (recipe.head.dim, recipe.head.dropout) == (8, 0.1)
    assert recipe.loss == CosFaceConfig(scale=8.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OWN.replace("recipes.mine", "recipes.other"), "recipe must be one of default, .*other, unifex, got 'mine'"),
        (OWN.replace("recipes.mine", "recipes.unifex"), "recipes.unifex has the name of a recipe that is there"),
        (OWN.replace("scale", "scael"), r"scael: unknown key"),
        ('recipe = "default"\n[recipes]\nmine = 3', r"recipes is a table of tables, one a recipe: \[recipes.mine\]"),
    ],
)
def test_what_is_wrong_in_a_recipe_of_ones_own_is_said(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        head(text)


def test_without_a_recipe_nothing_is_added() -> None:
    assert with_recipe({"name": "a", "dim": 8}) == {"name": "a", "dim": 8}
