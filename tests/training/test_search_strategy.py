from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import pytest

from cache.errors import MissingExtraError
from stages.training import ArcFaceConfig, LinearHeadConfig, SweepConfig
from stages.training.recipe import DottedSettings, HeadRecipe
from stages.training.sweep.search_space import Family, check_method, families, search

BASE = HeadRecipe(LinearHeadConfig(dim=32), ArcFaceConfig(scale=16.0))
OVER = {
    "loss.scale": {"low": 4, "high": 64, "log": True},
    "dim": {"low": 2, "high": 64},
    "inputs": [{"root": 0.5}, {"root": 1.0}],
}


def family(over: Mapping[str, object]) -> Family:
    (family,) = families(BASE, SweepConfig(method="optuna", over=over).axes())
    return family


def near_twenty(proposed: Sequence[DottedSettings]) -> list[float]:
    """The best scale is 20, the best root 0.5."""
    return [-abs(settings["loss.scale"] - 20) - 10 * (settings["inputs"]["root"] != 0.5) for settings in proposed]


def test_a_search_stays_inside_keeps_whole_numbers_and_comes_near_the_best() -> None:
    tried = search(family(OVER), "optuna", 60, 0, near_twenty)
    assert len(tried) == 60
    assert all(
        4 <= settings["loss.scale"] <= 64 and 2 <= settings["dim"] <= 64 and isinstance(settings["dim"], int)
        for settings in tried
    )
    assert {settings["inputs"]["root"] for settings in tried} == {0.5, 1.0}
    assert max(near_twenty(tried)) > -1.5
    late = tried[40:]
    assert sum(settings["inputs"]["root"] == 0.5 for settings in late) > len(late) / 2  # it learned which of the two


def test_the_same_seed_and_scores_propose_the_same_and_another_seed_others() -> None:
    first, again, other = (search(family(OVER), "optuna", 20, seed, near_twenty) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_smaller_budget_is_the_beginning_of_a_larger_one() -> None:
    assert search(family(OVER), "optuna", 24, 0, near_twenty)[:16] == search(family(OVER), "optuna", 16, 0, near_twenty)


def test_a_family_that_the_budget_covers_is_tried_whole() -> None:
    proposed: list[DottedSettings] = []

    def count(settings: Sequence[DottedSettings]) -> list[float]:
        proposed.extend(settings)
        return [0.0] * len(settings)

    tried = search(family({"dim": [2, 4, 8]}), "optuna", 3, 0, count)
    assert tried == proposed == [{"dim": 2}, {"dim": 4}, {"dim": 8}]
    assert len(search(family({"dim": [2, 4, 8]}), "grid", 1, 0, count)) == 3


def test_without_optuna_the_extra_is_named_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)  # an import of it fails, as where it is not installed
    with pytest.raises(MissingExtraError, match=r"permafrost-retrieval\[sweep\]"):
        check_method("optuna")
    check_method("grid")
