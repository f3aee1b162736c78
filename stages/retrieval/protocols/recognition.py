"""Protocols that name the object of a query, or say that there is none: Met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True)
class MetConfig:
    """The Met dataset: k nearest neighbours name the exhibit; queries of no exhibit are asked too.

    The class of the nearest image is predicted. Its confidence is a softmax over all classes of the gallery of
    temperature x the greatest similarity of the class among the neighbours, 0 for a class that is not among them.
    Numbers that are not given are tuned on the validation queries by GAP, as the paper does.

    Args:
        kind: of protocol.
        neighbours: how many nearest images are looked at.
        temperature: what similarities are multiplied by (the paper's code calls it that; it divides nothing).
    """

    kind: Literal["met"] = "met"
    neighbours: int | None = None
    temperature: float | None = None

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if self.neighbours is not None and self.neighbours < 1:
            raise ValueError(f"neighbours is a number of images, at least 1, got {self.neighbours}")
        if self.temperature is not None and not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is a number above 0, got {self.temperature}")


@dataclass(frozen=True)
class SmallDataConfig:
    """The measure of "Boosting image retrieval with accurately labelled small data": a set searched in itself.

    :mod:`stages.retrieval.legacy` has it; it comes with the score of a perfect ranking, and of one by chance.
    """

    kind: Literal["small_data"] = "small_data"

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
