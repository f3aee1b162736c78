"""``permafrost plan``: say what `extract` would compute: images, bytes, time; writes no feature."""

from __future__ import annotations

from pipeline.commands.options import (
    BatchSize,
    Device,
    Json,
    Quiet,
    RetryFailed,
    RunFile,
    Workers,
    emit,
)
from pipeline.dataset import open_run
from pipeline.extraction import Hardware, plan_features, planned_lines, planned_text
from pipeline.vectors import planned_heads


def plan(
    run_file: RunFile,
    device: Device = "cpu",
    batch_size: BatchSize = None,
    workers: Workers = None,
    retry_failed: RetryFailed = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what `extract` would compute: images, bytes, time; and which heads are to be trained. Writes no feature."""
    run = open_run(run_file, quiet=quiet, workers=workers)
    planned = plan_features(run, Hardware(device, batch_size, workers, retry_failed))
    heads = planned_heads(run)
    emit(json, planned_text(planned), *planned_lines(planned))
    for head in heads:
        emit(json, f"{head.head} on {head.backbone}: {head.state}", head._asdict())
