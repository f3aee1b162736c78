"""faiss, imported when a name of it is first used: settings of indexes load without it."""

from typing import Any


def __getattr__(name: str) -> Any:
    import faiss

    return getattr(faiss, name)
