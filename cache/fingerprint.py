"""Names made from content: canonical JSON -> sha256, and the digest of a file's bytes."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import TypeAlias

from cache.errors import SettingsError

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"


def canonical_json(value: JSON) -> str:
    """One spelling for one value: keys sorted, no spaces, floats by shortest repr, no NaN."""
    _refuse_ambiguous(value, "")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def fingerprint(value: JSON) -> str:
    """The sha256 of ``value``'s canonical JSON, 64 hexadecimal digits.

    >>> fingerprint({"a": 1, "b": [0.5]}) == fingerprint({"b": [0.5], "a": 1})
    True
    """
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


def digest_bytes(content: bytes | memoryview) -> bytes:
    """The sha256 of ``content``, 32 bytes.

    >>> digest_bytes(b"").hex()[:8]
    'e3b0c442'
    """
    return hashlib.sha256(content).digest()


def digest_file(path: Path | str) -> bytes:
    """The sha256 of a file's bytes, 32 bytes. Raises OSError as ``open`` does.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     digest_file(file.name) == digest_bytes(b"")
    True
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _refuse_ambiguous(value: JSON, where: str) -> None:
    """Only plain JSON has one spelling: no tuples, no non-string keys, no NaN."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where or 'the value'} has the key {key!r}; keys must be strings")
            _refuse_ambiguous(inner, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            _refuse_ambiguous(inner, f"{where}[{position}]")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise SettingsError(f"{where or 'the value'} is {value}; a fingerprint takes finite numbers")
    elif not (value is None or isinstance(value, (bool, int, str))):
        raise TypeError(f"{where or 'the value'} is {type(value).__name__}; a fingerprint takes plain JSON values")
