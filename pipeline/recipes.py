"""``recipe = "default"``: one word of a run file for all settings of a head, its own keys before the recipe's."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from cache.errors import SettingsError

_RECIPE, _DIM = "recipe", 64


def recipes() -> dict[str, dict[str, Any]]:
    """The settings of every recipe, by name."""
    return tomllib.loads(files("pipeline").joinpath("presets/recipes.toml").read_text(encoding="utf-8"))


def with_recipe(head: dict[str, Any], own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One of ``[[heads]]`` with what its ``recipe`` says; a start without ``dim`` gets the head's.

    ``own`` are the recipes of the run file, by name. Raises ValueError for an unknown recipe.

    >>> with_recipe({"recipe": "small", "dropout": 0.0}, {"small": {"dim": 8, "dropout": 0.5}})
    {'dim': 8, 'dropout': 0.0}
    """
    if _RECIPE in head:
        known, name = recipes() | dict(own or {}), head[_RECIPE]
        if not isinstance(name, str) or name not in known:
            raise SettingsError(f"recipe must be one of {', '.join(sorted(known))}, got {name!r}")
        head = _merged(known[name], {key: value for key, value in head.items() if key != _RECIPE})
    start = head.get("start")
    if isinstance(start, dict) and "dim" not in start:
        head = head | {"start": start | {"dim": head.get("dim", _DIM)}}
    return head


def _merged(recipe: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """``own`` over ``recipe``, key by key of the tables in them; a table of another kind takes the other's place."""
    merged = dict(recipe)
    for key, value in own.items():
        there = merged.get(key)
        if isinstance(there, dict) and isinstance(value, dict) and value.get("kind") in (None, there.get("kind")):
            value = _merged(there, value)
        merged[key] = value
    return merged
