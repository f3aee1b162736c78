"""The one backbone and head of a run that a command looks at."""

from __future__ import annotations

from collections.abc import Sequence

from cache.errors import ConfigError
from pipeline.config import RunConfig
from pipeline.run import RAW, Vectors


def chosen(
    config: RunConfig, run_file: object, vectors: Sequence[Vectors], head: str | None, backbone: str | None
) -> Vectors:
    """The ``head``, by default the last of the run file, on ``backbone``, by default the first that has it."""
    name = head or (config.heads[-1].name if config.heads else RAW)
    found = next((of for of in vectors if of.head == name and backbone in (None, of.backbone)), None)
    if found is None:
        known = ", ".join(dict.fromkeys(of.head for of in vectors))
        where = "" if backbone is None else f" on {backbone!r} (of {', '.join({of.backbone: 0 for of in vectors})})"
        raise ConfigError(f"{run_file} has no head {name!r}{where}; it has {known}")
    return found
