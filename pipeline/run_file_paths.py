"""A run file's bytes, from a local disk or from object storage, and the paths in it, which are seen from its folder."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cache.errors import ConfigError
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
