"""Settings in an identity: only what differs from its default, so that a new option changes no fingerprint."""

from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass

import pytest

from cache import fingerprint
from cache.settings import changed_settings


@dataclass(frozen=True)
class Ramp:
    until: int
    power: float = 1.0


@dataclass(frozen=True)
class Loss:
    scale: float
    margin: float = 0.5
    sizes: tuple[int, ...] = ()
    ramp: Ramp | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    kind: str = "arcface"


def test_defaults_are_left_out_and_what_has_none_is_always_there() -> None:
    assert changed_settings(Loss(30.0)) == {"scale": 30.0, "kind": "arcface"}
    assert changed_settings(Loss(30.0, margin=0.3, sizes=(8, 4))) == {
        "scale": 30.0, "margin": 0.3, "sizes": [8, 4], "kind": "arcface",
    }  # fmt: skip


def test_a_nested_configuration_holds_its_own_changes_even_where_it_has_none() -> None:
    assert changed_settings(Loss(30.0, ramp=Ramp(3)))["ramp"] == {"until": 3}
    assert changed_settings(Loss(30.0, weights={"colour": 2.0}))["weights"] == {"colour": 2.0}


def test_a_new_field_with_a_default_leaves_the_fingerprint_as_it_is() -> None:
    before = Loss(30.0, margin=0.3, ramp=Ramp(3, 2.0))
    grown = make_dataclass("Loss", [("temperature", float, 1.0)], bases=(Loss,), frozen=True)
    after = grown(30.0, margin=0.3, ramp=Ramp(3, 2.0))
    assert fingerprint(changed_settings(before)) == fingerprint(changed_settings(after))
    other = grown(30.0, margin=0.3, ramp=Ramp(3, 2.0), temperature=2.0)
    assert fingerprint(changed_settings(before)) != fingerprint(changed_settings(other))


def test_what_is_no_configuration_or_no_plain_value_is_refused() -> None:
    with pytest.raises(TypeError, match="dataclass instance"):
        changed_settings({"scale": 1})
    with pytest.raises(TypeError, match="a setting is"):
        changed_settings(Loss(object()))  # type: ignore[arg-type]
