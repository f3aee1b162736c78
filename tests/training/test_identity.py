"""What a head's identity holds: settings that differ from their defaults, and nothing that an added option changes."""

from __future__ import annotations

from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path

import pytest

from cache.settings import changed_settings
from stages.training import (
    ArcFaceConfig,
    DiscriminantHeadConfig,
    HeadRecipe,
    LdaHeadConfig,
    LinearHeadConfig,
    OptimizerConfig,
    TrainingConfig,
    head_identity,
)
from stages.training.pairs.kinds import TripletConfig
from tests.toys.training import classes_of, toy

GOLDEN = {
    "defaults": (
        HeadRecipe(LinearHeadConfig(), ArcFaceConfig()),
        "62bff886",
    ),
    "settings": (
        HeadRecipe(
            LinearHeadConfig(dim=32, dropout=0.1),
            ArcFaceConfig(subcenters=3, margin_rad=0.4),
            start=DiscriminantHeadConfig(dim=32),
            optimizer=OptimizerConfig(lr=1e-3),
            training=TrainingConfig(epochs=3, soup=2),
        ),
        "c9142fa5",
    ),
    "pairs": (
        HeadRecipe(LinearHeadConfig(dim=8), TripletConfig(memory=100)),
        "94709c09",
    ),
    "closed form": (
        HeadRecipe(LdaHeadConfig(dim=4)),
        "17f57d56",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_head_keeps_its_fingerprint(tmp_path: Path, name: str) -> None:
    """A change here trains every head of every user again: raise the version only when the weights would differ."""
    features, records = toy(tmp_path, classes_of(4, 4))
    recipe, fingerprint = GOLDEN[name]
    assert head_identity(features, records, recipe).short == fingerprint


def test_an_option_with_a_default_that_is_added_to_a_setting_leaves_the_fingerprint(tmp_path: Path) -> None:
    added = make_dataclass("ArcFaceConfig", [("new", str, "off")], bases=(ArcFaceConfig,), frozen=True)
    assert "new" in {field.name for field in fields(added)}
    features, records = toy(tmp_path, classes_of(4, 4))
    head = LinearHeadConfig(dim=8)
    plain = head_identity(features, records, head, ArcFaceConfig(scale=16.0))
    assert head_identity(features, records, head, added(scale=16.0)) == plain
    assert head_identity(features, records, head, added(scale=16.0, new="on")) != plain


def test_settings_without_an_effect_on_a_closed_form_are_not_in_its_identity(tmp_path: Path) -> None:
    features, records = toy(tmp_path, classes_of(4, 4))
    recipe = HeadRecipe(LdaHeadConfig(dim=4), optimizer=OptimizerConfig(lr=1.0), training=TrainingConfig(epochs=3))
    assert head_identity(features, records, recipe) == head_identity(features, records, LdaHeadConfig(dim=4))
    assert head_identity(features, records, recipe).fields["recipe"] == {"head": {"kind": "lda", "dim": 4}}


def test_a_nested_setting_is_in_the_identity_where_it_differs() -> None:
    @dataclass(frozen=True)
    class Inner:
        root: float = 1.0
        unit: bool = False

    @dataclass(frozen=True)
    class Outer:
        inputs: Inner = Inner()
        dim: int = 64

    assert changed_settings(Outer()) == {}
    assert changed_settings(Outer(Inner(root=0.5))) == {"inputs": {"root": 0.5}}
