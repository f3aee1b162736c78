from __future__ import annotations

from typing import Any

import pytest

from cache.errors import ConfigError
from stages.training import ArcFaceConfig, LinearHeadConfig, SweepConfig
from stages.training.recipe import HeadRecipe
from stages.training.sweep.search_space import Range, families

BASE = HeadRecipe(LinearHeadConfig(dim=32), ArcFaceConfig(scale=16.0))


def test_keys_may_be_quoted_or_stand_in_tables_of_their_own() -> None:
    quoted = SweepConfig(over={"loss.scale": [8, 16], "dim": [4]})
    nested = SweepConfig(over={"loss": {"scale": [8, 16]}, "dim": [4]})
    assert quoted.axes() == nested.axes() == {"loss.scale": (8, 16), "dim": (4,)}


def test_a_range_is_from_low_to_high_and_a_grid_takes_its_steps() -> None:
    (axis,) = SweepConfig(over={"loss.scale": {"low": 4, "high": 64, "log": True, "steps": 5}}).axes().values()
    assert isinstance(axis, Range)
    assert axis.points(whole=False) == (4.0, 8.0, 16.0, 32.0, 64.0)
    assert Range(0.0, 1.0, steps=3).points(whole=False) == (0.0, 0.5, 1.0)
    assert Range(1, 3, steps=9).points(whole=True) == (1, 2, 3)  # each once
    assert Range(1.0, 4.0, log=True, steps=1).points(whole=False) == (2.0,)
    assert Range(0.1, 0.3).number(0.123456, whole=False) == 0.1235


def test_a_grid_is_every_combination_the_last_key_fastest() -> None:
    (family,) = families(BASE, SweepConfig(over={"dim": [4, 8], "loss.scale": [1.0, 2.0, 1.0]}).axes())
    assert family.size() == 4
    assert family.grid() == [
        {"dim": 4, "loss.scale": 1.0},
        {"dim": 4, "loss.scale": 2.0},
        {"dim": 8, "loss.scale": 1.0},
        {"dim": 8, "loss.scale": 2.0},
    ]
    assert family.recipe(family.grid()[3]).head.dim == 8


def test_each_loss_is_a_family_with_the_keys_that_it_has() -> None:
    over = {"loss.kind": ["arcface", "cosface"], "loss.margin_rad": [0.2, 0.5], "loss.margin_cos": [0.1], "dim": [4]}
    arcface, cosface = families(BASE, SweepConfig(over=over).axes())
    assert list(arcface.axes) == ["loss.margin_rad", "dim"]
    assert list(cosface.axes) == ["loss.margin_cos", "dim"]
    assert arcface.grid()[1] == {"loss.kind": "arcface", "loss.margin_rad": 0.5, "dim": 4}
    assert cosface.recipe(cosface.grid()[0]).method == "cosface"


def test_a_whole_number_stays_whole_and_another_may_be_given_as_one() -> None:
    (family,) = families(BASE, SweepConfig(over={"dim": [4], "loss.scale": [8]}).axes())
    assert family.whole("dim")
    assert not family.whole("loss.scale")
    assert not family.whole("inputs.center")


def test_nothing_to_sweep_over_is_the_head_as_it_is() -> None:
    (family,) = families(BASE, {})
    assert family.grid() == [{}]
    assert family.recipe({}) == BASE


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trials": 0}, "trials is how many configurations are tried, at least 1, got 0"),
        ({"folds": 1}, "folds is how many parts the classes are cut into, at least 2, got 1"),
        ({"seeds": ()}, r"seeds is a list of different whole numbers, one or more, at least 0, got \[\]"),
        ({"seeds": (1, 1)}, "seeds is a list of different whole numbers"),
        ({"seeds": (-1,)}, "seeds is a list of different whole numbers"),
        ({"over": {"dim": []}}, r"over\.dim: the list is empty"),
        ({"over": {"dim": 4}}, r"over\.dim: a list of values or .*got 4"),
        ({"over": {"dim": {"low": 1, "hgih": 3}}}, r"over\.dim\.hgih: unknown key"),
        ({"over": {"dim": {"low": 1}}}, r"over\.dim\.high is a finite number, got None"),
        ({"over": {"dim": {"low": 3, "high": 1, "steps": 2}}}, r"over\.dim: low is below high, got 3 and 1"),
        ({"over": {"dim": {"low": 0, "high": 1, "log": True}}}, r"over\.dim: log is .* only above 0"),
        ({"over": {"dim": {"low": 1, "high": 2, "steps": 0}}}, r"over\.dim\.steps is a whole number from 1, got 0"),
        ({"over": {"dim": {"low": 1, "high": 2}}}, r"over\.dim: a grid takes a number of steps"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SweepConfig(**settings)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"loss.margin_cos": [0.1]}, r"sweep\.over\.loss\.margin_cos: arcface has no such key"),
        ({"loss.scael": [1.0]}, r"sweep\.over\.loss\.scael: .*did you mean loss\.scale\?"),
        ({"optimiser.lr": [1.0]}, r"sweep\.over\.optimiser\.lr: unknown key; did you mean optimizer\.lr\?"),
        ({"loss.kind": ["arcfase"]}, r"sweep\.over: loss\.kind = 'arcfase': kind must be one of"),
        ({"dim": [4, 0]}, r"sweep\.over: dim = 0: dim is the size"),
        (
            {"loss.scale": {"low": -1.0, "high": 4.0, "steps": 2}},
            r"sweep\.over: loss\.scale = -1\.0: scale is a factor",
        ),
        ({"loss.kind": {"low": 1, "high": 2, "steps": 2}}, r"sweep\.over\.loss\.kind: the kinds to try are a list"),
    ],
)
def test_a_key_or_value_that_no_head_can_take_is_named(over: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        families(BASE, SweepConfig(over=over).axes())
