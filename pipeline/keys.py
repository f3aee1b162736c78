"""Every table and key of a run file, from the configuration classes: their reference, and what is wrong in a file."""

from __future__ import annotations

import difflib
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from cache.settings import changed_settings
from pipeline.config import HeadRun, RunConfig
from pipeline.run_files import recipes, toml_value
from stages.datasets import DEFAULT_KIND
from stages.training.recipe import HeadRecipe

_INTRODUCTION = """# The run file

Every table and key, as `permafrost keys` prints it; `permafrost keys heads.loss` prints one table and those inside it.
A table with a `kind` takes the keys of this kind alone; an unknown key is an error. A table inside another has its path
for a heading, `[heads.loss]`, or stands in place: `loss = { kind = "arcface" }`."""

_RECIPE = "Fills in the keys that the head lacks; or a name of [recipes.NAME], a table of such keys."
_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}


class Key(NamedTuple):
    """A key of a table: its type and default as a run file has them, and what it means. A needed key has no default."""

    name: str
    type: str
    default: str | None
    meaning: str


class Table(NamedTuple):
    """A table of the run file, such as ``heads.loss`` of the kind ``arcface``; ``kind`` is empty where it has none."""

    path: str
    several: bool
    kind: str
    meaning: str
    keys: tuple[Key, ...]


def tables() -> list[Table]:
    """Every table that a run file can have, those inside another after it; a set of kinds is described once.

    >>> [key.default for table in tables() if table.path == "extraction" for key in table.keys]
    ['"float16"', '0.01']
    """
    return list(_tables(RunConfig, "", several=False, described={}))


def reference(section: str = "") -> str:
    """The tables at or below the path ``section``, by default all, as Markdown; empty where there is none.

    >>> print(reference("extraction").splitlines()[0])
    ## `[extraction]`
    """
    wanted = [table for table in tables() if not section or f"{table.path}.".startswith(f"{section}.")]
    return "\n\n".join([*([] if section else [_INTRODUCTION]), *map(_markdown, wanted)])


def _markdown(table: Table) -> str:
    title = f"`[[{table.path}]]`" if table.several else f"`[{table.path}]`" if table.path else "Outside of any table"
    kind = f", `kind = {json.dumps(table.kind)}`" if table.kind else ""
    lines = [f"## {title}{kind}", "", *([table.meaning, ""] if table.meaning else [])]
    for key in table.keys:
        default = "needed" if key.default is None else f"default `{key.default}`" if key.default else "may be left out"
        lines.append(f"- `{key.name}`: {key.type}; {default}. {key.meaning}".rstrip())
    return "\n".join(lines).rstrip()


def _tables(config: type, path: str, *, several: bool, described: dict[frozenset[type], str]) -> Iterator[Table]:
    """The table of ``config`` at ``path`` and those inside; ``described`` is where each set of classes stands."""
    meaning, of_keys = _documented(config)
    if config is HeadRun:
        of_keys |= _documented(HeadRecipe)[1]
    kind, keys = "", []
    inside: list[tuple[list[type], str, bool]] = []
    for field, hint in _fields(config):
        flat = field.name == "head"  # its keys stand in the table of the run's head
        of_one_kind = field.name == "kind" and len(get_args(hint)) == 1
        place = path if flat else f"{path}.{field.name}".lstrip(".")
        configs = [part for part in dict.fromkeys(_parts(hint)) if isinstance(part, type) and is_dataclass(part)]
        of_type = _type(hint, described.get(frozenset(configs), place))
        if configs and frozenset(configs) not in described:
            described[frozenset(configs)] = place
            inside.append((configs, place, several if flat else of_type.startswith("list of")))
        if of_one_kind:
            kind = get_args(hint)[0]
        elif not flat:
            keys.append(Key(field.name, of_type, _default(field), of_keys.get(field.name, "")))
    if config is HeadRun:
        keys.insert(1, Key("recipe", " or ".join(json.dumps(name) for name in sorted(recipes())), "", _RECIPE))
    yield Table(path, several, kind, meaning, tuple(keys))
    for kinds, place, many in inside:
        of_kinds = [[*_tables(kind, place, several=many, described=described)] for kind in kinds]
        shared: list[Key] = []
        if len(kinds) > 1:
            firsts = [first for first, *_ in of_kinds]
            shared = [key for key in firsts[0].keys if all(key in first.keys for first in firsts)]
            own = (next((key.type for key in one.keys if key.name == "kind"), f"`{one.kind}`") for one in firsts)
            names = ", ".join(name for name in own if name != "``")
            every = " Every kind has these keys." if shared else ""
            yield Table(place, many, "", (f"Kinds: {names}." if names else "") + every, tuple(shared))
        for first, *others in of_kinds:
            yield first._replace(keys=tuple(key for key in first.keys if key not in shared))
            yield from others


def _fields(config: type) -> Iterator[tuple[Field[Any], Any]]:
    """The fields of ``config`` with their types; in a run file the recipe of a head is not a table of its own."""
    hints = get_type_hints(config, include_extras=True)
    for field in fields(config):
        if config is HeadRun and field.name == "recipe":
            yield from _fields(HeadRecipe)
        else:
            yield field, hints[field.name]


def _parts(hint: Any) -> list[Any]:
    """The types that a value of ``hint`` can have, lists taken apart."""
    if isinstance(hint, TypeVar) or get_origin(hint) is Literal or not get_args(hint):
        return [hint]
    inner = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
    return [part for entry in inner if entry is not Ellipsis for part in _parts(entry)]


def _type(hint: Any, place: str) -> str:
    """A type in words; ``place`` is where the tables among its parts are described."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in inner)
    if origin is tuple:
        words = dict.fromkeys(_type(part, place) for part in inner if part is not Ellipsis)
        return "list of " + " and ".join(f"{word}s" if word.endswith("number") else word for word in words)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "table"
    if inner:
        parts = inner[:1] if origin is Annotated else [part for part in inner if part is not NoneType]
        return " or ".join(dict.fromkeys(word for part in parts for word in _type(part, place).split(" or ")))
    return f"table `[{place}]`" if is_dataclass(hint) else _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def _default(field: Field[Any]) -> str | None:
    """The default as TOML; empty for one that TOML has no word for, None where the key is needed."""
    value = field.default if field.default_factory is MISSING else field.default_factory()
    if value is MISSING:
        return None
    if value is None:
        return ""
    return toml_value(changed_settings(value) if is_dataclass(value) and not isinstance(value, type) else value)


def _documented(config: type) -> tuple[str, dict[str, str]]:
    """The first paragraph of a class's docstring, and what it and those of the classes it extends say of each key."""
    keys: dict[str, str] = {}
    for part in reversed(config.__mro__):
        text = inspect.cleandoc(part.__dict__.get("__doc__") or "")
        arguments = re.search(r"^(?:Args|Attributes):\n((?:[ ].*\n?|\n)+)", text, re.MULTILINE)
        if arguments:
            entries = re.findall(r"^ {4}(\w+): ((?:.*\n?)(?:^ {5,}.*\n?)*)", arguments[1], re.MULTILINE)
            keys |= {name: _sentence(meaning) for name, meaning in entries}
    first, _, _ = (inspect.getdoc(config) or "").partition("\n\n")
    return _sentence(re.sub(r"^``kind = .*?``: ", "", first)), keys


def _sentence(text: str) -> str:
    """Docstring markup as Markdown, a paragraph a line."""
    text = re.sub(r":\w+:`[~.]*([^`<]*?)(?: <[^`]*>)?`", r"`\1`", text).replace("``", "`")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text.strip()))
    return text[:1].upper() + text[1:]


_REMOVED = {
    ("repeat", "queries"): "the picture of a table shows 8 queries",
    ("one_domain", "power"): "every domain comes as often as the others",
    ("domain_weights", "step"): "the weights move at a step of 1",
    ("domain_weights", "floor"): "all domains have 0.1 of the rows in equal parts",
    ("multilabel", "dropout"): "the network has none",
    ("folder", "label"): "the label of an image is its folder",
}
"""Keys of 0.1.0 by the kind of their table, or its name where it has no kind, and what holds without them."""


def problem(details: Mapping[str, Any], raw: Mapping[str, Any]) -> str:
    """One of pydantic's errors, ``details``, in what was read, ``raw``: the dotted path, and what must hold there."""
    path, kind = _path(details["loc"], raw)
    message = str(details["msg"]).removeprefix("Value error, ")
    match details["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            table, _, key = path.rpartition(".")
            message = "unknown key" + (f" for kind = {kind!r}" if kind else "")
            if holds := _REMOVED.get((kind or table, key)):
                message += f": {holds}. Leave it out"
            else:
                message += _suggestion(key, re.sub(r"\[\d+\]", "", table), kind)
        case "missing" | "missing_argument":
            message = "this key is needed"
        case "union_tag_not_found":
            message = "this needs kind = ..."
        case "literal_error":
            message = f"must be {details['ctx']['expected']}, got {details['input']!r}"
        case "union_tag_invalid":
            message = f"kind must be one of {details['ctx']['expected_tags']}, got {details['ctx']['tag']!r}"
        case "tuple_type" | "dataclass_type":
            message = f"this is a table of its own: [{path}], or [[{path}]] where there can be several"
        case kind if kind.endswith(("_type", "_parsing")):
            message = f"{message[0].lower()}{message[1:]}, got {details['input']!r}"
    return f"{path}: {message}" if path else message


def _path(places: Sequence[str | int], raw: Mapping[str, Any]) -> tuple[str, str]:
    """The dotted path of pydantic's ``places`` as the file has it, and the ``kind`` of the table that it ends in.

    Tags of unions, and the tables that a run file has flat (``recipe``, ``head``), are not in the path.
    """
    path, kind = "", ""
    value: Any = raw
    for place in places:
        if isinstance(value, dict):
            kind = value.get("kind", DEFAULT_KIND if path.startswith("dataset") else "")
        of_union = isinstance(value, dict) and place not in value and kind == place
        is_tag = of_union or (isinstance(place, str) and " " in place)  # not a key
        if isinstance(place, int):
            path += f"[{place}]"
        elif place not in ("recipe", "head") and not is_tag:
            path += f".{place}" if path else place
        if not is_tag:
            try:
                value = value[place]
            except (KeyError, IndexError, TypeError):  # a key that is missing
                value = None
    return path, kind


def _suggestion(key: str, table: str, kind: str) -> str:
    """The key of ``table`` that looks most like ``key``, and the kinds or tables that do have it."""
    names = {each: {entry.name for entry in each.keys} for each in tables()}
    own = set[str]().union(*(names[each] for each in names if each.path == table and each.kind in (kind, "")))
    every = set[str]().union(*names.values())  # for a table that is described at another path
    close = difflib.get_close_matches(key, sorted(own or every), n=1)
    meant = f"; did you mean {close[0]}?" if close else ""
    having = [each for each in names if key in names[each]]
    if kinds := dict.fromkeys(each.kind for each in having if each.path == table):
        others = ", ".join(kinds)
        return f"{meant} {key} is of {others}" if meant else f"; other kinds take it ({others}), so leave it out"
    if having and not meant:
        places = dict.fromkeys(f"[{each.path}]" for each in having)
        return "; it stands above all tables" if "[]" in places else f"; it belongs in {' or '.join(places)}"
    return meant
