"""Settings: what their fields allow, and how an identity holds them: only those that differ from their defaults.

So an option that is added leaves all old fingerprints as they are, as long as its default does what was done before;
where the meaning of a setting or a default changes, the version beside the settings is raised.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from cache.errors import SettingsError
from cache.fingerprint import JSON


@dataclass(frozen=True)
class Within:
    """The ``interval`` of a number, or of each of several, such as "(0, 1]" or "[1, inf]", and ``what`` it is."""

    interval: str
    what: str = ""

    def allows(self, value: Any) -> bool:
        """Whether ``value``, or each of its numbers, lies in the interval."""
        low, high = (math.pi if end == "pi" else float(end) for end in self.interval[1:-1].split(", "))
        numbers = value if isinstance(value, tuple) else getattr(value, "extremes", (value,))
        above = all(number >= low if self.interval[0] == "[" else number > low for number in numbers)
        return above and all(number <= high if self.interval[-1] == "]" else number < high for number in numbers)

    def __str__(self) -> str:
        low, high = self.interval[:-1].split(", ")
        where = f"in {self.interval}"
        if high == "inf":
            where = f"{'at least' if low[0] == '[' else 'above'} {low[1:]}{' and finite' * self.interval.endswith(')')}"
        return f"{self.what}, {where}" if self.what else where


@dataclass(frozen=True)
class Choices(Within):
    """One or more numbers to choose from, each once."""

    what: str = "one or more values to choose from, each once"

    def allows(self, value: Any) -> bool:
        """Whether there is a value, none twice, and each lies in the interval."""
        return len({*value}) == len(value) > 0 and super().allows(value)


class Settings:
    """A configuration read from a file: an unknown key is an error, and so is a value that its field does not allow.

    The words that a field allows stand in a ``Literal``, the numbers in a :class:`Within`.

    >>> @dataclass(frozen=True)
    ... class Loss(Settings):
    ...     scale: Annotated[float, Within("(0, inf)", "a factor on the cosines")] = 30.0
    >>> Loss(scale=0.0)
    Traceback (most recent call last):
    cache.errors.SettingsError: scale is a factor on the cosines, above 0 and finite, got 0.0
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        config: Any = type(self)
        for name, words, bounds in _limits(config):
            value = getattr(self, name)
            if value is None:
                continue
            if not (value in words if isinstance(value, str) else bounds is None or bounds.allows(value)):
                *first, last = [*([str(bounds)] if bounds else []), *words]
                listed = f"{', '.join(first)} or {last}" if first else last
                raise SettingsError(f"{name} is {listed}, got {list(value) if isinstance(value, tuple) else value!r}")


@cache
def _limits(config: type) -> list[tuple[str, tuple[str, ...], Within | None]]:
    """Of each field with limits the name, the words that it allows, and the interval of its numbers."""
    limits = []
    hints = get_type_hints(config, include_extras=True)
    for field in fields(config):
        metadata = getattr(hints[field.name], "__metadata__", ())
        bounds = next((entry for entry in metadata if isinstance(entry, Within)), None)
        words = tuple(_words(hints[field.name]))
        if words or bounds:
            limits.append((field.name, words, bounds))
    return limits


def _words(hint: Any) -> Iterator[str]:
    """The words that a value of ``hint`` itself can be; those of the entries of a list are not."""
    if get_origin(hint) is Literal:
        yield from get_args(hint)
    elif get_origin(hint) is Annotated:
        yield from _words(get_args(hint)[0])
    elif get_origin(hint) in (Union, UnionType):
        for part in get_args(hint):
            yield from _words(part)


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
