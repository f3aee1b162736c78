"""``permafrost keys``: print every key of a run file: its type, its default, what it means."""

from __future__ import annotations

from typing import Annotated

import typer

from cache.errors import ConfigError
from pipeline.keys import reference, tables


def keys(
    section: Annotated[
        str, typer.Argument(metavar="[SECTION]", help="A table, such as heads.loss; by default the whole file.")
    ] = "",
) -> None:
    """Print every key of a run file with its type, its default and what it means."""
    text = reference(section)
    if not text:
        known = ", ".join(dict.fromkeys(table.path for table in tables() if table.path))
        raise ConfigError(f"a run file has no table {section!r}; there are {known}")
    typer.echo(text)
