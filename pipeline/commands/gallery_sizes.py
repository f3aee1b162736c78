"""``permafrost gallery-sizes``: score the same queries in galleries of several sizes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cache.atomic import unless_read_only
from cache.errors import ConfigError
from pipeline.commands.options import Head, Json, OneBackbone, Quiet, RunFile, emit
from pipeline.dataset import open_run
from pipeline.scores import json_lines
from pipeline.vectors import choose_vectors, find_vectors
from pipeline.views.gallery_sizes import gallery_sizes_text
from stages.analysis import gallery_curve
from stages.analysis.sizes import further_distractors
from stages.retrieval import AttributeMetric
from stages.retrieval.protocols import MetConfig


def gallery_sizes(
    run_file: RunFile,
    size: Annotated[
        list[float] | None,
        typer.Option(min=0, help="A share of the gallery, or above 1 a number of distractors. Can be given again."),
    ] = None,
    distractors: Annotated[
        list[str] | None,
        typer.Option(help="A value of the split column with further distractors. Can be given again."),
    ] = None,
    head: Head = None,
    backbone: OneBackbone = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score the same queries in galleries of several sizes: what a small gallery hides."""
    run = open_run(run_file, quiet=quiet)
    vectors = [each for each in find_vectors(run) if backbone in (None, each.backbone)]
    if head is not None or not vectors:
        vectors = [choose_vectors(run, vectors, head, backbone)]
    config, records, retrieval = run.config, run.records, run.config.retrieval
    sizes, values = size or retrieval.gallery_sizes, distractors or retrieval.distractors
    metrics = [name for name in retrieval.metrics if AttributeMetric.find(name) is None]
    if not metrics or isinstance(retrieval.protocol, MetConfig):
        raise ConfigError("a gallery-size curve takes a metric of rankings by label: [retrieval] metrics names none")
    lines: list[dict[str, Any]] = []
    for each in vectors:
        run.display.say(f"searching galleries of {len(sizes)} sizes with {each.backbone} {each.head}")
        curve = gallery_curve(
            each.store,
            queries=records.split("query"),
            gallery=records.split("gallery"),
            sizes=sizes,
            metrics=metrics,
            further=further_distractors(records, values) if values else None,
            protocol=retrieval.ranked,
            seed=config.seed,
        )
        if curve.left_out:
            run.display.warn(f"{curve.left_out:,} further distractors are of a class that searches: left out")
        lines += [
            {"backbone": each.backbone, "head": each.head, "size": at.size, "sampled": at.sampled,
             "distractors": at.distractors, "searched": at.searched, "domain": at.score.domain,
             "metric": at.score.metric, "value": at.score.value, "low": at.score.low, "high": at.score.high,
             "floor": at.floor, "ceiling": at.ceiling, "queries": at.score.queries,
             "embeddings": each.store.fingerprint}
            for at in curve.scores
        ]  # fmt: skip
    key = f"scores/{run.name}.gallery_sizes.jsonl"
    emit(json, gallery_sizes_text(lines), *lines)
    with unless_read_only(run.display.warn):
        run.storage.put(key, json_lines(lines).encode())
        run.display.say(f"also in {run.storage.address(key)}")
