"""A run file as text: its bytes, the paths and recipes in it, and TOML, which the standard library does not write."""

from __future__ import annotations

import json
import os
import posixpath
import re
import tomllib
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from cache.errors import ConfigError, SettingsError
from cache.storage import is_url, object_at

VARIABLES = ("PERMAFROST_DATA", "PERMAFROST_WEIGHTS")
_PATHS = {"path", "root", "weights", "artifacts", "keys", "uri"}
_NO_PATH = ("weights", "random")


def run_file_text(where: Path | str) -> str:
    """The text of the run file ``where``. Raises ConfigError, and UnreachableError of an address that cannot be used.

    >>> run_file_text("s3://bucket/")
    Traceback (most recent call last):
    cache.errors.ConfigError: s3://bucket/ names no run file: s3://bucket/run.toml would.
    """
    try:
        if not is_url(str(where)):
            return Path(where).read_text(encoding="utf-8-sig")
        storage, key = object_at(str(where))
        if not key or key.endswith("/"):
            raise ConfigError(f"{where} names no run file: {str(where).rstrip('/')}/run.toml would.")
        return storage.read(key).decode("utf-8-sig")
    except FileNotFoundError:
        hint = "Copy one there." if is_url(str(where)) else "`permafrost init FOLDER` writes one for your images."
        raise ConfigError(f"{where} does not exist. {hint}") from None
    except IsADirectoryError:
        hint = f"`permafrost init {where}` writes one for it."
        raise ConfigError(f"{where} is a folder; give a run file. {hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} cannot be read: {error}") from error


def map_paths(value: Any, change: Callable[[str, str], str], key: str = "") -> Any:
    """``value`` of a run file with its paths as ``change(key, path)`` has them.

    >>> map_paths({"dataset": {"path": "a"}, "seed": 0}, lambda key, path: f"{key} {path}")
    {'dataset': {'path': 'path a'}, 'seed': 0}
    """
    if isinstance(value, dict):
        return {inner: map_paths(entry, change, inner) for inner, entry in value.items()}
    if isinstance(value, list):
        return [map_paths(entry, change, key) for entry in value]
    is_path = isinstance(value, str) and key in _PATHS and (key, value) != _NO_PATH
    return change(key, value) if is_path else value


def expanded(key: str, value: str, name: str) -> str:
    """``value`` of a run file with what the variables in it stand for."""
    where = f"{name}: {key} = {value!r}"

    def meant(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        if (variable := match[1]) not in VARIABLES:
            known = " and ".join(f"${{{known}}}" for known in VARIABLES)
            raise ConfigError(
                f"{where}: {known} are the only variables that a path may hold. Write $$ for a dollar sign in the name "
                "of a file or folder."
            )
        if not os.environ.get(variable):
            raise ConfigError(
                f"{where}, but {variable} is not set. Set it to the folder that holds what the path names: "
                f"export {variable}=/path/to/folder"
            )
        return os.environ[variable]

    return re.sub(r"\$\$|\$\{(\w*)\}|\$", meant, value)


def resolved(path: str, key: str, name: str, folder: Path | str | None) -> str:
    """``path`` seen from the ``folder`` of the run file, a text where that is in object storage.

    In run files of 0.1.0 it was seen from where one stood: what is there only from there is an error that says so.
    """
    if folder is None or not path or Path(path).is_absolute() or "://" in path:
        return path
    if isinstance(folder, str):
        return beside(folder, path)
    resolved = os.path.normpath(folder / path)
    if not Path(resolved).exists() and Path(path).exists():
        mended = os.path.relpath(path, folder)
        raise ConfigError(
            f"{name}: {key} = {path!r} is relative to the folder of the run file, and {resolved} does not exist, while "
            f"{Path(path).absolute()} does. If that is meant, as by versions before 0.2, write {key} = {mended!r}; if "
            f"not, make {resolved} first."
        )
    return resolved


def beside(folder: str, path: str) -> str:
    """The relative ``path`` of a run file in the ``folder`` in object storage, as an address.

    >>> beside("s3://bucket/runs", "../shop")
    's3://bucket/shop'
    """
    scheme, _, place = folder.partition("://")
    bucket, _, prefix = place.partition("/")
    key = posixpath.normpath(posixpath.join(prefix, path))
    if key.split("/")[0] == "..":
        raise ConfigError(f"{path!r}, seen from {folder}, leads out of the bucket")
    return f"{scheme}://{bucket}" + ("" if key == "." else f"/{key}")


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


def write_toml(table: Mapping[str, Any]) -> str:
    """``table`` as TOML text that ``tomllib`` reads back as it was. Keys whose value is None are left out."""
    return "\n".join(_lines(table, ())).lstrip("\n") + "\n"


def _lines(table: Mapping[str, Any], above: tuple[str, ...]) -> list[str]:
    """Plain keys first: after the first ``[table]`` a key would belong to that."""
    lines = [f"{_key(key)} = {toml_value(value)}" for key, value in table.items() if not _own_lines(value)]
    for key, value in table.items():
        if not _own_lines(value):
            continue
        path = (*above, key)
        name = ".".join(_key(part) for part in path)
        if isinstance(value, Mapping):
            lines += ["", f"[{name}]", *_lines(value, path)]
        elif value is not None:
            for entry in value:
                lines += ["", f"[[{name}]]", *_lines(entry, path)]
    return lines


def _own_lines(value: Any) -> bool:
    several = isinstance(value, (list, tuple)) and bool(value) and all(isinstance(entry, Mapping) for entry in value)
    return value is None or isinstance(value, Mapping) or several


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)


def toml_value(value: Any) -> str:
    """``value`` as it stands behind a key."""
    if isinstance(value, Mapping):
        entries = ", ".join(f"{_key(k)} = {toml_value(v)}" for k, v in value.items() if v is not None)
        return f"{{ {entries} }}" if entries else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(entry) for entry in value) + "]"
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, (int, float)):
        return repr(value)
    raise TypeError(f"TOML holds tables, lists, texts, numbers, true and false; got {value!r}")


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # the one escape that JSON leaves out
