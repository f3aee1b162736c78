"""``permafrost health``: look for what makes scores wrong: copies across splits, labels, hubs, dead dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer

from pipeline.commands.options import Head, Json, OneBackbone, Quiet, RunFile, emit
from pipeline.config import read_config
from pipeline.dataset import Run, remarks, run_of
from pipeline.progress import Display
from pipeline.vectors import Vectors, choose_vectors, find_vectors
from pipeline.views.health import health_lines, health_text
from stages.analysis.bounds import run_bounds
from stages.analysis.health import NEAR_DUPLICATE, Health, check_health


def health(
    run_file: RunFile,
    head: Head = None,
    backbone: OneBackbone = None,
    top: Annotated[int, typer.Option(min=0, help="How many to list of each finding.")] = 10,
    near_duplicate: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Cosine similarity from which two images are one; by default 0.98."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look for what makes scores wrong: copies across splits, labels, hubs, dead dimensions, failed images."""
    silent = run_of(read_config(run_file), Display(quiet=True, warnings=False), run_file)
    run = replace(silent, display=Display(quiet=quiet))  # the report has what is noted of the records
    report = health_of_run(run, find_vectors(run), head, backbone, near_duplicate or NEAR_DUPLICATE)
    emit(json, health_text(report, top), *health_lines(report))


def health_of_run(
    run: Run,
    vectors: Sequence[Vectors],
    head: str | None = None,
    backbone: str | None = None,
    near_duplicate: float = NEAR_DUPLICATE,
) -> Health:
    """The health of the records, and of what :func:`choose_vectors` takes beside the raw feature it is made from."""
    chosen = choose_vectors(run, vectors, head, backbone)
    features = {each.backbone: each for each in vectors if each.trained is None}
    raw = features.get(chosen.backbone, chosen)
    return check_health(
        run.records,
        {(each.backbone, each.head): each.store for each in (raw, chosen)},
        near_duplicate,
        backbones={name: each.store for name, each in features.items()},
        remarks=remarks(run.config, run.records, run.records.counts()),
        bounds=run_bounds(raw.store, run.records, run.config.retrieval),
        on_step=run.display.say,
    )
