"""The command ``score``."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from typing import Annotated, cast, get_args

import typer

from cache.atomic import unless_read_only
from cache.errors import ConfigError
from cache.storage import is_url
from pipeline.commands.options import Json, Quiet, RunFile
from pipeline.dataset import Run, open_run
from pipeline.score_rows import json_lines
from pipeline.scores import score_run
from pipeline.vectors import Vectors, find_vectors, with_rows
from pipeline.verdict import no_surer_head
from pipeline.views.leaderboard import score_table
from pipeline.views.nearest import draw_nearest
from pipeline.views.sizes import group_table
from stages.analysis.class_size import ClassSize, stored_by_class_size
from stages.retrieval.query_values import QueryValues


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
    for size in by or []:
        if size not in get_args(ClassSize):
            raise ConfigError(f"--by is one of {', '.join(get_args(ClassSize))}, got {size!r}")
    run = open_run(run_file, quiet=quiet)
    vectors = find_vectors(run)
    run = with_rows(run, vectors)
    values = print_scores(run, vectors, json=json)
    if by:
        lines = [line for size in by for line in stored_by_class_size(values, run.records, cast("ClassSize", size))]
        text = "".join(json_module.dumps(line) + "\n" for line in lines)
        with unless_read_only(run.display.warn):
            run.storage.put(f"scores/{run.name}.groups.jsonl", text.encode())
        typer.echo(text if json else f"\n{group_table(lines)}\n", nl=False)


def print_scores(run: Run, vectors: Sequence[Vectors], *, json: bool) -> QueryValues:
    """Score ``vectors``, print the table or JSON lines, and draw a picture of queries with their nearest images.

    The picture is of the first backbone with a head, raw and with each of its heads. Last it says where no head is
    surely above the raw feature. Returns the value of every query.
    """
    rows, values = score_run(run, vectors)
    typer.echo(json_lines(rows) if json else score_table(rows) + "\n", nl=False)
    backbone = next((entry.backbone for entry in vectors if entry.trained is not None), vectors[0].backbone)
    first = [entry for entry in vectors if entry.backbone == backbone]
    path = run.scratch / "scores" / f"{run.name}.png"
    if any(run.records.uris):
        with unless_read_only(run.display.warn):
            draw_nearest(path, run.records, first, title=f"{run.name}: queries sampled with a fixed seed, {backbone}")
            if is_url(run.config.artifacts):
                run.storage.put(f"scores/{path.name}", path.read_bytes())
            where = run.storage.address(f"scores/{path.name}")
            run.display.say(f"some queries with their nearest images: {where}")
    if (verdict := no_surer_head(run.config, values)) is not None:
        run.display.say(verdict)
    return values
