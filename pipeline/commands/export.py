"""The command ``export``."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from pipeline.bundle.export import export_bundle
from pipeline.bundle.snapshots import read_snapshot
from pipeline.commands.options import Json, OneBackbone, Quiet, RunFile
from pipeline.dataset import open_run
from pipeline.thresholds import kept_decisions
from pipeline.vectors import find_chosen, with_rows


def export(
    run_file: RunFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write: a new or an empty one.")],
    head: Annotated[
        str | None, typer.Option(help="A head of the run, or raw; by default the best on validation.")
    ] = None,
    backbone: OneBackbone = None,
    everything: Annotated[bool, typer.Option("--all", help="Export every record, not only the gallery.")] = False,
    no_weights: Annotated[
        bool, typer.Option("--no-weights", help="Name the weights with their digests, and do not copy them.")
    ] = False,
    thumbnails: Annotated[bool, typer.Option("--thumbnails", help="Write a small picture of each image too.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a head with its networks and gallery as one folder that opens on another machine."""
    run = open_run(run_file, quiet=quiet)
    vectors = find_chosen(run, head, backbone)
    run = with_rows(run, [vectors])
    bundle = export_bundle(
        run,
        vectors,
        output,
        everything=everything,
        weights=not no_weights,
        thumbnails=thumbnails,
        decisions=kept_decisions(run, vectors),
    )
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    count = len(read_snapshot(bundle).rows)
    line = {
        "bundle": str(output),
        "backbone": vectors.backbone,
        "head": vectors.head,
        "embeddings": bundle.embeddings,
        "rows": count,
        "bytes": size,
    }
    text = f"{output}: {count:,} images, {vectors.backbone} {vectors.head}, {size / 1e6:,.1f} MB"
    typer.echo(json_module.dumps(line) if json else text)
