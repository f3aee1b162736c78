"""``permafrost run``: all three stages: extract, train-heads, score."""

from __future__ import annotations

from pipeline.commands import options
from pipeline.commands.extract import fail_on_too_many
from pipeline.commands.score import print_scores
from pipeline.dataset import open_run
from pipeline.extraction import Hardware, extract_features
from pipeline.vectors import find_vectors


def run(
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
    """All three stages: extract, train-heads, score."""
    cluster = options.ray_cluster(executor, address, cpus)
    opened = open_run(run_file, quiet=quiet, workers=workers)
    done = extract_features(opened, Hardware(device, batch_size, workers, retry_failed, wait, cluster))
    vectors = find_vectors(opened, train=True, device=device)
    if opened.records.has_labels or opened.config.heads:
        print_scores(opened, vectors, json=json)
    else:
        opened.display.say(
            f"no image has a label, so nothing is scored. Search: permafrost search {run_file} IMAGE --all"
        )
    fail_on_too_many(opened, done, max_failures)
