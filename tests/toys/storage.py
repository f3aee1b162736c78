"""A storage without folders or memory maps: what reads and writes through it needs no local disk."""

from __future__ import annotations

from dataclasses import dataclass, field

from cache import Storage
from cache.errors import SettingsError


@dataclass(frozen=True)
class MemoryStorage:
    """Keys in a dictionary, which the storages :meth:`below` share."""

    contents: dict[str, bytes] = field(default_factory=dict)
    prefix: str = ""

    def _full(self, key: str) -> str:
        if any(part in ("", ".", "..") for part in key.split("/")):
            raise SettingsError(f"a key is a relative path like rows/3.parquet; got {key!r}")
        return self.prefix + key

    def list(self, prefix: str = "") -> list[str]:
        start = self.prefix + prefix
        return sorted(key.removeprefix(self.prefix) for key in self.contents if key.startswith(start))

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        try:
            return self.contents[self._full(key)][start:stop]
        except KeyError:
            raise FileNotFoundError(self.address(key)) from None

    def size(self, key: str) -> int:
        return len(self.read(key))

    def put(self, key: str, content: bytes | memoryview) -> None:
        self.contents[self._full(key)] = bytes(content)

    def put_new(self, key: str, content: bytes | memoryview) -> bool:
        new = self._full(key) not in self.contents
        if new:
            self.put(key, content)
        return new

    def delete(self, key: str) -> None:
        self.contents.pop(self._full(key), None)

    def map(self, key: str) -> memoryview | None:
        self.size(key)
        return None

    def below(self, prefix: str) -> Storage:
        return MemoryStorage(self.contents, f"{self._full(prefix)}/")

    def address(self, key: str = "") -> str:
        return f"memory:/{self.prefix}{key}".rstrip("/")
