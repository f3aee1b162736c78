"""The command ``score``."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.class_sizes import check_by, group_lines, group_table
from pipeline.commands.options import Json, Quiet, RunFile
from pipeline.config import RunConfig
from pipeline.dataset import open_run
from pipeline.progress import Display
from pipeline.score_rows import json_lines
from pipeline.scores import score_run
from pipeline.vectors import Vectors, find_vectors
from pipeline.views.leaderboard import score_table
from pipeline.views.nearest import draw_nearest
from stages.records import Records


def score(
    run_file: RunFile,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Scores by class_size (in the gallery) or training_class_size too. Can be given again."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Stage 3: search the gallery for every query, and score raw features beside every head."""
    check_by(by or [])
    config, records, display = open_run(run_file, quiet=quiet)
    vectors = find_vectors(config, records, display)
    picture = print_scores(config, run_file.stem, records, vectors, display, json=json)
    display.say(f"some queries with their nearest images: {picture}")
    if by:
        lines = group_lines(config, run_file.stem, records, by)
        text = "".join(json_module.dumps(line) + "\n" for line in lines) if json else f"\n{group_table(lines)}\n"
        typer.echo(text, nl=False)


def print_scores(
    config: RunConfig, name: str, records: Records, vectors: Sequence[Vectors], display: Display, *, json: bool
) -> Path:
    """Score ``vectors``, print the table or JSON lines; return a picture of queries with their nearest images.

    The picture is of the first backbone, raw and with each of its heads.
    """
    rows = score_run(config, name, records, vectors, display)
    typer.echo(json_lines(rows) if json else score_table(rows) + "\n", nl=False)
    backbone = vectors[0].backbone
    first = [entry for entry in vectors if entry.backbone == backbone]
    path = Path(config.artifacts) / "scores" / f"{name}.png"
    return draw_nearest(path, records, first, title=f"{name}: queries sampled with a fixed seed, {backbone}")
