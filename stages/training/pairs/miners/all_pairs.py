"""No miner: every pair, or every triplet. The losses that take it have ways of their own that list none of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True)
class AllConfig:
    """Everything there is."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["all"] = "all"
