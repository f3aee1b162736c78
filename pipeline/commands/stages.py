"""The commands of a run: read the file and the records, do a stage or all, print the result."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path

import typer

from pipeline import extraction
from pipeline import run as stages_of
from pipeline.commands.class_sizes import check_by, group_lines, group_table
from pipeline.config import RunConfig, read_config
from pipeline.extraction import Extracted, Hardware
from pipeline.progress import Display
from pipeline.run import Vectors
from pipeline.score_rows import ScoreRow, json_lines
from pipeline.views.leaderboard import score_table
from pipeline.views.nearest import draw_nearest
from stages.records import Records


def plan(run_file: Path, hardware: Hardware, *, json: bool, quiet: bool) -> None:
    """What stage 1 would compute, and how long it would take."""
    config, display = read_config(run_file), Display(quiet=quiet)
    records = stages_of.read_dataset(config, display)
    planned = extraction.plan_features(config, records, hardware, display)
    if json:
        for line in extraction.planned_lines(planned):
            typer.echo(json_module.dumps(line))
    else:
        typer.echo(extraction.planned_text(planned))


def extract(run_file: Path, hardware: Hardware, max_failures: float | None, *, json: bool, quiet: bool) -> None:
    """Stage 1, then one line a backbone."""
    config, display = read_config(run_file), Display(quiet=quiet)
    records = stages_of.read_dataset(config, display)
    done = extraction.extract_features(config, records, hardware, display)
    for found in done:
        line = {
            "backbone": found.features.name,
            "features": found.features.fingerprint,
            "path": str(found.features.path),
            "computed": found.computed,
            "present": found.present,
            "failed": len(found.failures),
            "failures": [failed._asdict() for failed in found.failures],
        }
        if json:
            typer.echo(json_module.dumps(line))
        else:
            said = f"{found.computed:,} computed, {found.present:,} present, {len(found.failures):,} failed"
            typer.echo(f"{found.features.path}: {said}")
    fail_on_too_many(config, records, done, max_failures)


def train_heads(run_file: Path, *, tensorboard: bool, json: bool, quiet: bool) -> None:
    """Stage 2, then one line a head."""
    config, display = read_config(run_file), Display(quiet=quiet)
    records = stages_of.read_dataset(config, display)
    for found in stages_of.find_vectors(config, records, display, train=True, tensorboard=tensorboard):
        if found.trained is None:
            continue  # the raw feature
        line = {"backbone": found.backbone, "head": found.head, "embeddings": found.store.fingerprint}
        line["path"] = str(found.store.path)
        typer.echo(json_module.dumps(line) if json else f"{found.backbone} {found.head}: {found.store.path}")


def score(run_file: Path, by: Sequence[str] = (), *, json: bool, quiet: bool) -> None:
    """Stage 3, then the table; and one for each of what scores are told ``by``."""
    check_by(by)
    config, display = read_config(run_file), Display(quiet=quiet)
    records = stages_of.read_dataset(config, display)
    _score(config, run_file, records, stages_of.find_vectors(config, records, display), display, json=json)
    if by:
        lines = group_lines(config, run_file.stem, records, by)
        text = "".join(json_module.dumps(line) + "\n" for line in lines) if json else f"\n{group_table(lines)}\n"
        typer.echo(text, nl=False)


def run(run_file: Path, hardware: Hardware, max_failures: float | None, *, json: bool, quiet: bool) -> None:
    """All three stages, then the table."""
    config, display = read_config(run_file), Display(quiet=quiet)
    records = stages_of.read_dataset(config, display)
    done = extraction.extract_features(config, records, hardware, display)
    _score(config, run_file, records, stages_of.find_vectors(config, records, display, train=True), display, json=json)
    fail_on_too_many(config, records, done, max_failures)


def _score(
    config: RunConfig, run_file: Path, records: Records, vectors: Sequence[Vectors], display: Display, *, json: bool
) -> None:
    print_result(stages_of.score(config, run_file.stem, records, vectors, display), json=json)
    display.say(f"some queries with their nearest images: {draw_picture(config, run_file.stem, records, vectors)}")


def draw_picture(config: RunConfig, name: str, records: Records, vectors: Sequence[Vectors]) -> Path:
    """One picture of some queries and their nearest by the first backbone, raw and with each head."""
    shown = [found for found in vectors if found.backbone == vectors[0].backbone]
    path = Path(config.artifacts) / "scores" / f"{name}.png"
    return draw_nearest(path, records, shown, title=f"{name}: queries drawn by lot, {vectors[0].backbone}")


def print_result(rows: Sequence[ScoreRow], *, json: bool) -> None:
    """The scores on stdout, as JSON lines or as a table."""
    if json:
        typer.echo(json_lines(rows), nl=False)
    else:
        typer.echo(score_table(rows))


def fail_on_too_many(
    config: RunConfig, records: Records, done: Sequence[Extracted], max_failures: float | None
) -> None:
    """Exit with status 1 when a larger share of the images failed than may."""
    allowed = config.extraction.max_failures if max_failures is None else max_failures
    for found in done:
        if len(found.failures) > allowed * len(records):
            Display().warn(
                f"{len(found.failures):,} of {len(records):,} images failed with {found.features.name}, more than "
                f"max_failures = {allowed:g} allows. Mend or drop them, or allow more: --max-failures."
            )
            raise typer.Exit(1)
