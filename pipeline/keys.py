"""Every key of a run file with its type and default, read off the configuration classes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pipeline.config import HeadRun, RunConfig
from pipeline.toml import toml_value
from stages.training.recipe import HeadRecipe

_FLAT = {(HeadRun, "recipe"), (HeadRecipe, "head")}
"""Fields whose own fields stand beside them in the file."""
_PLAIN = {str: "text", int: "integer", float: "number", bool: "true or false"}


class Key(NamedTuple):
    """A key: the table that it is in, the ``kind`` of table that has it (none: every kind), and what it takes.

    ``default`` is as TOML has it; empty where the key is needed, ``-`` where leaving it out is a choice of its own.
    """

    section: str
    kind: str
    name: str
    type: str
    default: str
    meaning: str


def every_key() -> list[Key]:
    """Every key, table by table. A table that several others hold alike is listed in the first.

    >>> [key.type for key in every_key() if (key.section, key.name) == ("extraction", "dtype")]
    ['"float16" or "float32"']
    """
    keys = dict.fromkeys(_keys_of(RunConfig, "", "", set()))
    return [*keys, Key("heads", "", "recipe", "text", "-", "a preset whose settings stand before this head's own")]


def reference() -> str:
    """Every key as Markdown, a heading a table and a line a key."""
    keys = every_key()
    lines = []
    for section in dict.fromkeys(key.section for key in keys):
        lines += [f"## {f'`[{section}]`' if section else 'Above every table'}", ""]
        kinds_of: dict[Key, list[str]] = {}
        for key in keys:
            if key.section == section:
                kinds_of.setdefault(key._replace(kind=""), []).append(key.kind)
        tables: dict[tuple[str, ...], list[Key]] = {}
        for key, kinds in kinds_of.items():
            tables.setdefault(tuple(kinds), []).append(key)
        every = {key.kind for key in keys if key.section == section} - {""}
        for place, listed in tables.items():
            named = "every kind" if len(every) > 1 and {*place} >= every else ", ".join(f"`{kind}`" for kind in place)
            lines += [f"kind: {named}", ""] if any(place) else []
            lines += ["| key | takes | default | |", "|---|---|---|---|"]
            for key in listed:
                cells = (f"`{key.name}`", key.type, f"`{key.default}`" if key.default else "needed", key.meaning)
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
            lines.append("")
    return "\n".join(lines)


def _keys_of(config: type[Any], section: str, kind: str, listed: set[type[Any]]) -> Iterator[Key]:
    hints, meanings, inside = get_type_hints(config, include_extras=True), _meanings(config), []
    for field in fields(config):
        parts = list(_parts(hints[field.name]))
        classes = [part for part in dict.fromkeys(parts) if isinstance(part, type) and is_dataclass(part)]
        if (config, field.name) in _FLAT:
            inside += [(own, section, _kind(own)) for own in classes]
        elif field.name != "kind":
            below = f"{section}.{field.name}" if section else field.name
            takes = _takes(parts, classes)
            yield Key(section, kind, field.name, takes, _default(field), meanings.get(field.name, ""))
            inside += [(own, below, _kind(own)) for own in classes]
    for own, below, its_kind in inside:
        if own not in listed:
            listed.add(own)
            yield from _keys_of(own, below, its_kind, listed)


def _parts(annotation: Any) -> Iterator[Any]:
    """The types and literals that ``annotation`` allows; those of a list's entries for a list."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _parts(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for part in get_args(annotation):
            yield from _parts(part)
    elif origin is tuple:
        for part in get_args(annotation):
            for entry in () if part is Ellipsis else _parts(part):
                yield entry if is_dataclass(entry) else (tuple, entry)
    elif annotation is not NoneType:
        yield annotation


def _takes(parts: Sequence[Any], tables: Sequence[type[Any]]) -> str:
    words = []
    for part in parts:
        entry, several = (part[1], "list of ") if isinstance(part, tuple) else (part, "")
        origin: Any = get_origin(entry)
        if origin is Literal:
            words += [several + toml_value(value) for value in get_args(entry)]
        elif origin is not None and issubclass(origin, Mapping):
            words.append("table")
        elif not is_dataclass(entry):
            words.append(several + _PLAIN[entry])
    kinds = [kind for own in tables if (kind := _kind(own))]
    if kinds:
        words.append("table of kind " + ", ".join(f"`{kind}`" for kind in kinds))
    elif tables:
        words.append("table")
    return " or ".join(dict.fromkeys(words))


def _default(field: Field[Any]) -> str:
    value = field.default_factory() if field.default_factory is not MISSING else field.default
    if value is MISSING:
        return ""
    if value is None:
        return "-"
    if is_dataclass(value):
        return f'{{ kind = "{kind}" }}' if (kind := getattr(value, "kind", "")) else "{}"
    return toml_value(list(value) if isinstance(value, tuple) else value)


def _kind(config: type[Any]) -> str:
    hint = get_type_hints(config).get("kind")
    return str(get_args(hint)[0]) if get_origin(hint) is Literal else ""


def _meanings(config: type[Any]) -> dict[str, str]:
    """What the ``Args`` of the class's docstring say of each field, on one line; of a base where it says nothing."""
    meanings: dict[str, str] = {}
    for base in reversed(config.__mro__):
        text = inspect.cleandoc(base.__doc__ or "")
        arguments = re.search(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
        for name, meaning in re.findall(
            r"^    (\w+): ((?:.+\n?(?:     .*\n?)*))", arguments[1] if arguments else "", re.MULTILINE
        ):
            meanings[name] = re.sub(r":\w+:`", "`", " ".join(meaning.replace("``", "`").split()))
    return meanings
