from __future__ import annotations

from typing import Any

import pytest

from cache.errors import ConfigError
from stages.training import ArcFaceConfig, CosFaceConfig, InputsConfig, LinearHeadConfig, OptimizerConfig
from stages.training.recipe import HeadRecipe

BASE = HeadRecipe(LinearHeadConfig(dim=32), ArcFaceConfig(subcenters=3, margin_rad=0.5, scale=16.0))


def test_settings_go_where_their_dotted_keys_point_and_nothing_else_changes() -> None:
    made = BASE.with_settings({"dim": 64, "inputs.root": 0.5, "loss.scale": 8, "training.epochs": 3})
    assert made.head == LinearHeadConfig(dim=64, inputs=InputsConfig(root=0.5))
    assert made.loss == ArcFaceConfig(subcenters=3, margin_rad=0.5, scale=8.0)
    assert made.training.epochs == 3
    assert made.optimizer == BASE.optimizer
    assert BASE.with_settings({}) == BASE
    assert BASE.value("loss.subcenters") == 3
    assert BASE.value("inputs.center") is True


def test_another_loss_keeps_what_was_set_where_it_has_that_key() -> None:
    made = BASE.with_settings({"loss.kind": "cosface", "loss.margin_cos": 0.2})
    assert made.loss == CosFaceConfig(subcenters=3, scale=16.0, margin_cos=0.2)
    assert BASE.with_settings({"loss.kind": "arcface"}) == BASE


def test_another_head_keeps_its_size() -> None:
    made = BASE.with_settings({"kind": "mlp"})
    assert (made.head.kind, made.head.dim) == ("mlp", 32)


def test_the_final_rate_keeps_its_share_of_the_rate_unless_it_is_set_too() -> None:
    base = HeadRecipe(BASE.head, BASE.loss, optimizer=OptimizerConfig(lr=0.01, final_lr=0.001))
    assert base.with_settings({"optimizer.lr": 0.0002}).optimizer.final_lr == 0.00002
    both = base.with_settings({"optimizer.lr": 0.02, "optimizer.final_lr": 0.0})
    assert (both.optimizer.lr, both.optimizer.final_lr) == (0.02, 0.0)


def test_a_start_has_the_size_of_what_it_starts() -> None:
    base = BASE.with_settings({"start": {"kind": "pca"}})
    made = base.with_settings({"dim": 16})
    assert made.start is not None
    assert (made.head.dim, made.start.dim) == (16, 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss.margin_radd": 0.5}, r"loss\.margin_radd: unknown key; did you mean loss\.margin_rad\?"),
        ({"loss.margin_cos": 0.5}, r"loss\.margin_cos: unknown key"),
        ({"dimm": 3}, r"dimm: unknown key; did you mean dim\?"),
        ({"dim": 0}, r"dim = 0: dim is the size of an embedding, at least 1, got 0"),
        ({"loss.margin_rad": 4.0}, r"loss\.margin_rad = 4\.0: margin_rad is an angle"),
        ({"loss.kind": "arcfase"}, r"loss\.kind = 'arcfase': kind must be one of .*'arcface'"),
        ({"optimizer.lr": "fast"}, r"optimizer\.lr = 'fast': "),
        ({"inputs": {"rot": 1.0}}, r"inputs = \{'rot': 1\.0\}: "),
    ],
)
def test_a_setting_that_cannot_be_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BASE.with_settings(settings)
