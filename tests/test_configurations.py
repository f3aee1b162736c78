"""Every configuration that a run file can hold is public: the stage that it belongs to has it by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from cache.settings import Within
from pipeline.config import RunConfig


def configurations(annotation: Any, seen: set[type]) -> Iterator[type]:
    """The dataclasses within ``annotation``, and within their fields."""
    for part in get_args(annotation):
        yield from configurations(part, seen)
    if isinstance(annotation, type) and is_dataclass(annotation) and annotation not in seen:
        seen.add(annotation)
        yield annotation
        for hint in get_type_hints(annotation, include_extras=True).values():
            yield from configurations(hint, seen)


OF_STAGES = [each for each in configurations(RunConfig, set()) if each.__module__.startswith("stages.")]


def test_the_walk_reaches_every_room() -> None:
    assert {each.__module__.split(".")[1] for each in OF_STAGES} >= {"datasets", "extraction", "training", "retrieval"}
    assert {"LdaHeadConfig", "TripletConfig", "RevisitedConfig", "HardConfig"} <= {each.__name__ for each in OF_STAGES}


@pytest.mark.parametrize("configuration", OF_STAGES, ids=lambda each: each.__name__)
def test_the_stage_of_a_configuration_has_it(configuration: type) -> None:
    stage = import_module(".".join(configuration.__module__.split(".")[:2]))
    assert getattr(stage, configuration.__name__, None) is configuration
    assert configuration.__name__ in stage.__all__


def bounded(configuration: type) -> Iterator[tuple[str, Any, Within]]:
    hints = get_type_hints(configuration, include_extras=True)
    for field in fields(configuration):
        for entry in getattr(hints[field.name], "__metadata__", ()):
            if isinstance(entry, Within):
                yield field.name, get_args(hints[field.name])[0], entry


@pytest.mark.parametrize(
    ("configuration", "name", "hint", "bounds"),
    [(each, *bound) for each in OF_STAGES for bound in bounded(each)],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)
def test_a_number_outside_its_bounds_is_refused_by_name(
    configuration: Any, name: str, hint: Any, bounds: Within
) -> None:
    """Whatever other checks the class has: one that extends them and leaves out those of its fields would take it."""
    low, _, high = bounds.interval[1:-1].partition(", ")
    beyond = [float(low) - 1 if low != "-inf" else float("inf"), float("nan")]
    beyond += [{"pi": 3.15}.get(high) or float(high) + 0.5] if high != "inf" else []
    needed = {"Ramp": {"start": 0.0, "end": 1.0}}.get(configuration.__name__, {})
    for number in beyond:
        value = (number,) if get_origin(hint) is tuple else number
        with pytest.raises(ValueError, match=rf"^{name} is .*, got .*"):
            configuration(**needed | {name: value})
