"""``permafrost extract``: stage 1: run the frozen backbones over the images that their stores lack."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from pipeline.commands import options
from pipeline.dataset import Run, open_run
from pipeline.extraction import Extracted, Hardware, extract_features


def extract(
    run_file: options.RunFile,
    device: options.Device = "cpu",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    retry_failed: options.RetryFailed = False,
    max_failures: options.MaxFailures = None,
    wait: options.Wait = False,
    executor: options.Executor = "local",
    address: options.Address = None,
    cpus: options.Cpus = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Stage 1: run the frozen backbones over the images that their stores lack."""
    cluster = options.ray_cluster(executor, address, cpus)
    run = open_run(run_file, quiet=quiet, workers=workers)
    done = extract_features(run, Hardware(device, batch_size, workers, retry_failed, wait, cluster))
    for extracted in done:
        features, failures = extracted.features, extracted.failures
        named = {"backbone": features.name, "features": features.fingerprint, "path": features.address}
        numbers = {"computed": extracted.computed, "present": extracted.present, "failed": len(failures)}
        line = {**named, **numbers, "failures": [failed._asdict() for failed in failures]}
        counts = f"{extracted.computed:,} images computed, {extracted.present:,} stored already"
        text = f"{features.address}: {counts}; {len(failures):,} of {len(run.records):,} records failed"
        options.emit(json, text, line)
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
