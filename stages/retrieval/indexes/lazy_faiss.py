"""faiss, imported when a name of it is first used: settings of indexes load without it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faiss import *  # noqa: F403


def __getattr__(name: str) -> Any:
    import faiss

    return getattr(faiss, name)
