"""The command ``gallery-sizes``: the same queries against galleries of several sizes."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import typer

from cache.atomic import replace_text
from cache.errors import ConfigError
from pipeline.commands.options import Head, Json, OneBackbone, Quiet, RunFile
from pipeline.config import RunConfig, read_config
from pipeline.dataset import read_dataset
from pipeline.progress import Display
from pipeline.vectors import Vectors, choose_vectors, find_vectors
from pipeline.views.tables import aligned
from stages.analysis import SizeCurve, gallery_curve
from stages.records import Records
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
    config, display = read_config(run_file), Display(quiet=quiet)
    records = read_dataset(config, display)
    vectors = [each for each in find_vectors(config, records, display) if backbone in (None, each.backbone)]
    if head is not None or not vectors:
        vectors = [choose_vectors(config, run_file, vectors, head, backbone)]
    wanted = tuple(size or ()) or config.retrieval.gallery_sizes
    values = tuple(distractors or ()) or config.retrieval.distractors
    lines: list[dict[str, Any]] = []
    for each in vectors:
        display.say(f"searching galleries of {len(wanted)} sizes with {each.backbone} {each.head}")
        curve = size_curve(config, records, each, wanted, values)
        if curve.left_out:
            display.warn(f"{curve.left_out:,} further distractors are of a class that searches: left out")
        lines += curve_lines(curve, each)
    text = "".join(json_module.dumps(line) + "\n" for line in lines)
    path = Path(config.artifacts) / "scores" / f"{run_file.stem}.gallery_sizes.jsonl"
    replace_text(path, text)
    typer.echo(text if json else curve_table(lines), nl=not json)
    display.say(f"also in {path}")


def size_curve(
    config: RunConfig, records: Records, vectors: Vectors, sizes: Sequence[float], distractors: Sequence[str]
) -> SizeCurve:
    """The curve of the metrics by label. ConfigError where the run has none, or a split is unknown."""
    metrics = [name for name in config.retrieval.metrics if AttributeMetric.find(name) is None]
    if not metrics or isinstance(config.retrieval.protocol, MetConfig):
        raise ConfigError("a gallery-size curve takes a metric of rankings by label: [retrieval] metrics names none")
    return gallery_curve(
        vectors.store,
        queries=records.split("query"),
        gallery=records.split("gallery"),
        sizes=sizes,
        metrics=metrics,
        further=further_distractors(records, distractors) if distractors else None,
        rules=config.retrieval.ranked.rules(),
        seed=config.seed,
    )


def further_distractors(records: Records, values: Sequence[str]) -> Records:
    """The records of these ``values`` of the split column. ConfigError for one that no record has."""
    there = sorted({split for split in records.splits if split is not None})
    if unknown := [value for value in values if value not in there]:
        raise ConfigError(f"no record has the split {unknown[0]!r}; there are {', '.join(there)}")
    mask = pc.is_in(records.table["split"], pa.array(list(values), pa.string()))
    return Records(records.table.filter(mask), records.roles)


def curve_lines(curve: SizeCurve, vectors: Vectors) -> list[dict[str, Any]]:
    """A flat object for each size, domain and metric."""
    return [
        {"backbone": vectors.backbone, "head": vectors.head, "size": at.size, "distractors": at.distractors,
         "searched": at.searched, "domain": at.score.domain, "metric": at.score.metric, "value": at.score.value,
         "low": at.score.low, "high": at.score.high, "floor": at.floor, "ceiling": at.ceiling,
         "queries": at.score.queries, "embeddings": vectors.store.fingerprint}
        for at in curve.scores
    ]  # fmt: skip


def curve_table(lines: Sequence[dict[str, Any]]) -> str:
    """A line for each backbone, head, domain and size; a column for each metric."""
    metrics = list(dict.fromkeys(line["metric"] for line in lines))
    cells: dict[tuple[str, str, str, int], dict[str, dict[str, Any]]] = {}
    for line in lines:
        place = line["backbone"], line["head"], line["domain"], line["distractors"]
        cells.setdefault(place, {})[line["metric"]] = line
    table = [["backbone", "head", "domain", "distractors", "searched", *metrics]]
    for (backbone, head, domain, distractors), by_metric in sorted(
        cells.items(), key=lambda cell: _place(cell[0], lines)
    ):
        numbers = [f"{line['value']:.3f} ±{(line['high'] - line['low']) / 2:.3f}" for line in by_metric.values()]
        searched = next(iter(by_metric.values()))["searched"]
        table.append([backbone, head, domain, f"{distractors:,}", f"{searched:,.0f}", *numbers])
    note = "every query keeps its relevant rows; distractors sampled, those of a smaller gallery all in the larger"
    return "\n".join([*aligned(table, texts=3), note])


def _place(cell: tuple[str, str, str, int], lines: Sequence[dict[str, Any]]) -> tuple[int, int, int]:
    """Heads and domains in the order of the lines, sizes ascending."""
    heads = list(dict.fromkeys((line["backbone"], line["head"]) for line in lines))
    domains = list(dict.fromkeys(line["domain"] for line in lines))
    return heads.index(cell[:2]), domains.index(cell[2]), cell[3]
