"""Class-sampled softmax: a step looks at some of the classes (An et al., Partial FC, CVPR 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True)
class SampledConfig:
    """Compare with the batch's own classes and a ``share`` of all classes, in (0, 1].

    ``kind`` says which: ``random`` ones, or the ``hardest``, nearest to any embedding of the batch.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    share: float = 0.1
    kind: Literal["random", "hardest"] = "random"

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share is the part of the classes that a step looks at, in (0, 1], got {self.share}")
        if self.kind not in ("random", "hardest"):
            raise ValueError(f"kind is random or hardest, got {self.kind!r}")
