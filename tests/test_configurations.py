"""Every configuration that a run file can hold is public: the stage that it belongs to has it by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any, get_args, get_type_hints

import pytest

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
