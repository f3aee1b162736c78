"""How a run file describes the training table that ``curate`` makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cache.errors import SettingsError
from cache.settings import Settings, Within


@dataclass(frozen=True)
class CurateConfig(Settings):
    """The ``[curate]`` of a run file: which training images make a compact, clean training table.

    Attributes:
        domains: the domains to take; by default all.
        min_images: a class with fewer images, once duplicates are gone, is dropped.
        max_images: images to draw of a class that has more; by default all.
        classes_per_domain: classes to draw of a domain that has more: one number for every domain, or a table from
            domain to number, where a domain that is not in it keeps all. By default all.
        near_duplicate: two images whose features have this cosine similarity or more are taken for one. By default
            only byte-identical copies are, and no feature is read.
        seed: draws the classes and the images.
    """

    domains: tuple[str, ...] = ()
    min_images: Annotated[int, Within("[1, inf]")] = 3
    max_images: int | None = None
    classes_per_domain: int | dict[str, int] | None = None
    near_duplicate: Annotated[float | None, Within("(0, 1]", "a cosine similarity")] = None
    seed: Annotated[int, Within("[0, inf]")] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_images is not None and self.max_images < self.min_images:
            raise SettingsError(
                f"max_images is the most that a class keeps, so at least min_images; got {self.max_images} "
                f"and {self.min_images}"
            )
        limits = self.classes_per_domain
        least = min(limits.values(), default=None) if isinstance(limits, dict) else limits
        if least is not None and least < 1:
            raise SettingsError(
                f"classes_per_domain must be at least 1, got {least}; to leave a domain out, list the others in domains"
            )
