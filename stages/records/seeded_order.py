"""Drawing by lot: the lot of a name is its hash, so a draw depends on neither the order of rows nor on other names."""

from __future__ import annotations

import hashlib


def lot(seed: int, *names: str) -> bytes:
    """The lot of ``names`` under ``seed``: sort by it and take the first."""
    return hashlib.sha256("\0".join((str(seed), *names)).encode("utf-8", "surrogateescape")).digest()
