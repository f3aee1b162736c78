"""The command ``plan``."""

from __future__ import annotations

import json as json_module

import typer

from pipeline.commands.options import BatchSize, Device, Json, Quiet, RetryFailed, RunFile, Workers
from pipeline.dataset import open_run
from pipeline.extraction import Hardware, plan_features, planned_lines, planned_text


def plan(
    run_file: RunFile,
    device: Device = "cpu",
    batch_size: BatchSize = None,
    workers: Workers = None,
    retry_failed: RetryFailed = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what `extract` would compute: images, bytes, and the time by a timed sample. Writes no feature."""
    planned = plan_features(open_run(run_file, quiet=quiet), Hardware(device, batch_size, workers, retry_failed))
    if json:
        for line in planned_lines(planned):
            typer.echo(json_module.dumps(line))
    else:
        typer.echo(planned_text(planned))
