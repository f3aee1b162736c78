"""The code of a user's own losses and heads, as an identity holds it: an edited loss trains another head."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from cache import digest_file
from cache.errors import SettingsError
from cache.fingerprint import JSON

_OURS = {"cache", "stages", "pipeline"}
_INSTALLED = {"site-packages", "dist-packages"}


def own_code(config: Any) -> list[JSON]:
    """The digests of the files that define a user's own classes in ``config``, and of their own modules in use there.

    Code of Permafrost is left out: its versions are in the identities already. So is an installed package that such a
    file imports. Raises ValueError for a class without a file, as one typed into an interpreter.

    >>> from stages.training import ArcFaceConfig
    >>> own_code(ArcFaceConfig())
    []
    """
    modules: dict[str, ModuleType] = {}
    pending = [(cls.__module__, cls.__qualname__) for part in _parts(config) for cls in type(part).__mro__]
    files: set[Path] = set()
    while pending:
        name, what = pending.pop()
        if name in modules or name.partition(".")[0] in _OURS | sys.stdlib_module_names:
            continue
        modules[name] = module = sys.modules[name]
        path = Path(getattr(module, "__file__", None) or "")
        if not path.is_file():
            raise SettingsError(
                f"{what} has no file, so that a head could not tell it from an edited one: define it in a module"
            )
        files.add(path)
        pending += [(used, used) for used in _own_modules_in(module)]
    return [*sorted(digest_file(path).hex() for path in files)]


def _parts(config: Any) -> Iterator[Any]:
    """``config`` and the configurations in it."""
    if is_dataclass(config):
        yield config
        for field in fields(config):
            yield from _parts(getattr(config, field.name))


def _own_modules_in(module: ModuleType) -> Iterator[str]:
    """The modules, not installed ones, that the names of ``module`` come from."""
    for value in vars(module).values():
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        used = sys.modules.get(name) if isinstance(name, str) else None
        if used is not None and (path := getattr(used, "__file__", None)) and not _INSTALLED & {*Path(path).parts}:
            yield used.__name__
