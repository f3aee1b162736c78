"""Settings as an identity holds them: only those that differ from their defaults.

An identity that listed every setting would change with each option that is added, and everything that was made under
it would be made anew. With defaults left out, a new option leaves all old fingerprints as they are, as long as its
default does what was done before; where the meaning of a setting or a default changes, the version beside the
settings is raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, ClassVar

from cache.fingerprint import JSON


class Settings:
    """A configuration read from a file: an unknown key is an error."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}


def changed_settings(config: Any) -> dict[str, JSON]:  # any frozen dataclass
    """The fields of ``config`` that differ from their defaults, as plain JSON; ``kind`` is always there.

    A nested configuration holds its own changed settings. A field without a default is always there.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Loss:
    ...     scale: float
    ...     margin: float = 0.5
    ...     kind: str = "arcface"
    >>> changed_settings(Loss(30.0))
    {'scale': 30.0, 'kind': 'arcface'}
    """
    if not is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"settings are a dataclass instance, got {config!r}")
    changed: dict[str, JSON] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name == "kind" or value != _default(field):
            changed[field.name] = _plain(value)
    return changed


def _default(field: Field[Any]) -> object:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _plain(value: Any) -> JSON:
    if is_dataclass(value):
        return changed_settings(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a setting is a number, text, a list, a table or another configuration, got {value!r}")
