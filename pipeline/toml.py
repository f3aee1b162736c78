"""Write TOML: the standard library reads it and does not write it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


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
