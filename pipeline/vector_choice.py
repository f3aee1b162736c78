"""The one backbone and head of a run that a command works on."""

from __future__ import annotations

from collections.abc import Sequence

from cache.errors import ConfigError
from pipeline.config import RunConfig
from pipeline.run import Vectors
from pipeline.score_rows import RAW


def choose_vectors(
    config: RunConfig, run_file: object, vectors: Sequence[Vectors], head: str | None, backbone: str | None
) -> Vectors:
    """The vectors of ``head``, by default the last of the run file, on ``backbone``, by default the first that has it.

    Raises ConfigError naming the heads (and backbones) of the run where there are no such vectors.
    """
    name = head or (config.heads[-1].name if config.heads else RAW)
    for candidate in vectors:
        if candidate.head == name and backbone in (None, candidate.backbone):
            return candidate
    known = ", ".join(dict.fromkeys(candidate.head for candidate in vectors))
    backbones = ", ".join(dict.fromkeys(candidate.backbone for candidate in vectors))
    where = "" if backbone is None else f" on {backbone!r} (of {backbones})"
    raise ConfigError(f"{run_file} has no head {name!r}{where}; it has {known}")
