"""Losses of a user's own: an edited one trains another head, and nothing else does."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from stages.training import (
    ArcFaceConfig,
    HeadRecipe,
    LinearHeadConfig,
    TrainingConfig,
    embed,
    head_identity,
    train_head,
)
from stages.training.losses.kinds import MarginSoftmaxConfig
from stages.training.sweep.trials import cross_validation
from tests.toys.training import classes_of, toy

DOCS = Path(__file__).parents[2] / "docs/losses.md"
LOSS = """
from dataclasses import dataclass

from stages.training.losses.rules import Rule
from stages.training.losses.kinds import MarginSoftmaxConfig
from my_margins import MARGIN


class Lower(Rule):
    def target(self, cosine, norms, labels):
        return cosine - MARGIN() {more}


@dataclass(frozen=True)
class MineConfig(MarginSoftmaxConfig):
    kind: str = "mine"

    def rule(self, class_sizes, generator):
        return Lower()
"""
MARGINS = "def MARGIN():\n    return {value}\n"


@dataclass(frozen=True)
class OwnHeadConfig(LinearHeadConfig):
    kind: str = "own"  # type: ignore[assignment]


Edited = Callable[..., MarginSoftmaxConfig]


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edited:
    """The loss as its files say after an edit, in a new process for all that it knows."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(more: str = "", value: float = 0.3) -> MarginSoftmaxConfig:
        for name, text in (("my_loss", LOSS.format(more=more)), ("my_margins", MARGINS.format(value=value))):
            (tmp_path / f"{name}.py").write_text(text)
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        config: MarginSoftmaxConfig = importlib.import_module("my_loss").MineConfig()
        return config

    return write


def test_an_edited_loss_is_another_head_and_another_trial(tmp_path: Path, edited: Edited) -> None:
    features, records = toy(tmp_path / "store", classes_of(8, 4))
    splits = cross_validation(features, records, lambda rows, _: rows[:, 0].astype(np.float64), folds=2, seeds=(0,))
    identities, trials = [], []
    for edit in ({}, {}, {"more": "- 0.1"}, {"value": 0.9}):
        recipe = HeadRecipe(LinearHeadConfig(dim=4), edited(**edit))  # type: ignore[arg-type]
        identities.append(head_identity(features, records, recipe).fingerprint)
        trials.append(splits.fingerprint_of(recipe))
    for one, again, rule, helper in (identities, trials):
        assert one == again
        assert len({one, rule, helper}) == 3


def test_a_loss_of_ones_own_trains_and_the_built_in_ones_have_no_code_in_their_identity(
    tmp_path: Path, edited: Edited
) -> None:
    features, records = toy(tmp_path / "store", classes_of(8, 4))
    head = train_head(
        features,
        records,
        HeadRecipe(LinearHeadConfig(dim=4), edited(), training=TrainingConfig(epochs=1)),  # type: ignore[arg-type]
    )
    assert len(head.identity.fields["code"]) == 2  # type: ignore[arg-type]
    assert "code" not in head_identity(features, records, LinearHeadConfig(dim=4), ArcFaceConfig()).fields


def test_the_loss_of_the_documents_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", DOCS.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (tmp_path / "lowered.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    features, records = toy(tmp_path / "store", classes_of(8, 4))
    loss = importlib.import_module("lowered").LoweredConfig(margin_cos=0.2, scale=16.0)
    head = train_head(features, records, HeadRecipe(LinearHeadConfig(dim=4), loss, training=TrainingConfig(epochs=2)))
    assert head.identity.fields["recipe"]["loss"] == {"kind": "lowered", "margin_cos": 0.2, "scale": 16.0}  # type: ignore[index, call-overload]
    assert head.log[-1].loss < head.log[0].loss


def test_a_head_of_ones_own_embeds_and_is_refused_where_it_could_not_be_loaded(tmp_path: Path) -> None:
    features, records = toy(tmp_path / "store", classes_of(8, 4))
    head = train_head(features, records, OwnHeadConfig(dim=4), ArcFaceConfig())
    assert head.identity.fields["code"]
    assert embed(head, features, tmp_path / "embeddings").dim == 4
    with pytest.raises(ValueError, match="OwnHeadConfig is a head of your own, which loading does not know"):
        head.save(tmp_path / "head")
    assert not (tmp_path / "head").exists()


def test_a_loss_without_a_file_is_refused(tmp_path: Path) -> None:
    features, records = toy(tmp_path, classes_of(8, 4))
    typed = type("TypedConfig", (ArcFaceConfig,), {"__module__": "__main__"})
    main = importlib.import_module("__main__")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "__file__", None, raising=False)
        with pytest.raises(ValueError, match=r"TypedConfig has no file, .*: define it in a module"):
            head_identity(features, records, LinearHeadConfig(dim=4), typed())
