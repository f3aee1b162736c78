"""The command ``keys``."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer

from pipeline.commands.options import Json
from pipeline.keys import every_key, reference
from pipeline.views.tables import aligned


def keys(
    word: Annotated[str, typer.Argument(metavar="[WORD]", help="Only keys whose dotted name holds this.")] = "",
    json: Json = False,
) -> None:
    """Print every key of a run file with its table, type and default; without a WORD as the page docs/run-file.md."""
    matches = [key for key in every_key() if word in f"{key.section}.{key.name}"]
    if json:
        typer.echo("\n".join(json_module.dumps(key._asdict()) for key in matches))
    elif word:
        table = [["table", "kind", "key", "takes", "default"]]
        table += [[f"[{key.section}]", key.kind, key.name, key.type, key.default or "needed"] for key in matches]
        typer.echo("\n".join(aligned(table, texts=5)))
    else:
        typer.echo(reference())
