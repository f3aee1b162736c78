"""``permafrost extract``: stage 1: run the frozen backbones over the images that their stores lack."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from pipeline.commands.options import (
    Address,
    BatchSize,
    Cpus,
    Device,
    Executor,
    Json,
    MaxFailures,
    Quiet,
    RetryFailed,
    RunFile,
    Wait,
    Workers,
    emit,
    ray_cluster,
)
from pipeline.dataset import Run, open_run
from pipeline.extraction import Extracted, Hardware, extract_features


def extract(
    run_file: RunFile,
    device: Device = "cpu",
    batch_size: BatchSize = None,
    workers: Workers = None,
    retry_failed: RetryFailed = False,
    max_failures: MaxFailures = None,
    wait: Wait = False,
    executor: Executor = "local",
    address: Address = None,
    cpus: Cpus = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Stage 1: run the frozen backbones over the images that their stores lack."""
    cluster = ray_cluster(executor, address, cpus)
    run = open_run(run_file, quiet=quiet, workers=workers)
    done = extract_features(run, Hardware(device, batch_size, workers, retry_failed, wait, cluster))
    for extracted in done:
        features, failures = extracted.features, extracted.failures
        named = {"backbone": features.name, "features": features.fingerprint, "path": features.address}
        numbers = {"computed": extracted.computed, "present": extracted.present, "failed": len(failures)}
        line = {**named, **numbers, "failures": [failed._asdict() for failed in failures]}
        counts = f"{extracted.computed:,} images computed, {extracted.present:,} were there"
        text = f"{features.address}: {counts}; {len(failures):,} of {len(run.records):,} records failed"
        emit(json, text, line)
    fail_on_too_many(run, done, max_failures)


def fail_on_too_many(run: Run, done: Sequence[Extracted], max_failures: float | None) -> None:
    """Exit with status 1 when the share of images that failed is above the allowed one."""
    allowed = run.config.extraction.max_failures if max_failures is None else max_failures
    for extracted in done:
        if len(extracted.failures) > allowed * len(run.records):
            run.display.warn(
                f"{len(extracted.failures):,} of {len(run.records):,} records failed with {extracted.features.name}, "
                f"more than max_failures = {allowed:g} allows. Mend or drop them, or allow more: --max-failures."
            )
            raise typer.Exit(1)
