"""Arguments and flags that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunFile = Annotated[Path, typer.Argument(metavar="RUN.TOML", help="The run file.")]
RunFiles = Annotated[list[Path], typer.Argument(metavar="RUN.TOML...", help="Run files.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON lines instead of a table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings on stderr.")]
Head = Annotated[str | None, typer.Option(help="A head of the run, or raw.")]
OneBackbone = Annotated[str | None, typer.Option("--backbone", help="A backbone of the run.")]
