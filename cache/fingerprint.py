"""Names made from content: canonical JSON -> sha256, and the digest of a file's bytes.

Identity: what must match for numbers to be the same. Provenance: what is only written down.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeAlias

from cache.errors import SettingsError

_ABSENT = "(absent)"
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


@dataclass(frozen=True)
class Identity:
    """Everything that changes the numbers of a store, as plain JSON, and nothing else.

    Batch size, workers, paths and device index are not in it; weights, preprocessing, precision and decoder are.

    >>> Identity({"preprocess": {"size": 224}}).differences(Identity({"preprocess": {"size": 384}}))
    ['preprocess.size: stored 224, wanted 384']
    """

    fields: Mapping[str, JSON]

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the fields, 64 hexadecimal digits."""
        return fingerprint(dict(self.fields))

    @property
    def short(self) -> str:
        """The first eight digits of the fingerprint, as in folder names."""
        return self.fingerprint[:8]

    def differences(self, wanted: Identity) -> list[str]:
        """A line for each dotted key that differs: ``preprocess.size: stored 224, wanted 384``."""
        stored, other = dict(_leaves(dict(self.fields))), dict(_leaves(dict(wanted.fields)))
        return [
            f"{key}: stored {_shown(stored, key)}, wanted {_shown(other, key)}"
            for key in sorted(stored.keys() | other.keys())
            if _shown(stored, key) != _shown(other, key)
        ]

    def to_json(self) -> str:
        """Indented JSON that :meth:`from_json` reads back."""
        canonical_json(dict(self.fields))  # refuse what would not survive the round trip
        return json.dumps(dict(self.fields), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Identity:
        """The identity that :meth:`to_json` wrote."""
        return cls(json.loads(text))


@dataclass(frozen=True)
class Provenance:
    """Where numbers were computed: device, library versions, images a forward. Recorded, never compared.

    >>> Provenance("cpu", {"numpy": "2.0"}, batch_size=32).to_json()
    '{"batch_size":32,"device":"cpu","versions":{"numpy":"2.0"}}'
    """

    device: str
    versions: Mapping[str, str]
    batch_size: int | None = None

    @classmethod
    def here(cls, device: str, libraries: Sequence[str], batch_size: int | None = None) -> Provenance:
        """This Python with the installed versions of ``libraries``; one that is not installed is left out."""
        versions = {"python": platform.python_version()}
        for library in sorted(libraries):
            try:
                versions[library] = version(library)
            except PackageNotFoundError:
                continue
        return cls(device, versions, batch_size)

    @classmethod
    def merged(cls, parts: Sequence[Provenance]) -> Provenance:
        """The provenance of numbers from several ``parts``: where they differ, each value once, ``"cpu, cuda"``."""
        libraries = dict.fromkeys(library for part in parts for library in part.versions)
        versions = {name: _joined(part.versions.get(name) for part in parts) for name in libraries}
        sizes = {part.batch_size for part in parts}
        return cls(_joined(part.device for part in parts), versions, sizes.pop() if len(sizes) == 1 else None)

    def to_json(self) -> str:
        """One line of canonical JSON."""
        recorded: dict[str, JSON] = {"device": self.device, "versions": dict(self.versions)}
        return canonical_json(recorded | ({"batch_size": self.batch_size} if self.batch_size else {}))

    @classmethod
    def from_json(cls, text: str | bytes) -> Provenance:
        """The provenance that :meth:`to_json` wrote."""
        return cls(**json.loads(text))


def _joined(values: Iterable[str | None]) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value))


def _leaves(value: JSON, prefix: str = "") -> Iterator[tuple[str, JSON]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value


def _shown(leaves: Mapping[str, JSON], key: str) -> str:
    return json.dumps(leaves[key]) if key in leaves else _ABSENT
