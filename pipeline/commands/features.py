"""The command ``features``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import Head, OneBackbone, Quiet, RunFile
from pipeline.dataset import open_run
from pipeline.feature_files import write_features
from pipeline.score_rows import RAW
from pipeline.vectors import find_chosen


def features(
    run_file: RunFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="A .parquet or .npy file.")],
    head: Head = RAW,
    backbone: OneBackbone = None,
    quiet: Quiet = False,
) -> None:
    """Write the features of a run, or the embeddings of a head, to one file for other programs."""
    run = open_run(run_file, quiet=quiet)
    vectors = find_chosen(run, head, backbone)
    written = write_features(run.records, vectors.store, output)
    left_out = len(run.records) - written
    typer.echo(
        f"{output}: {written:,} vectors of {vectors.backbone} {vectors.head}, {vectors.store.dim:,} numbers each"
    )
    if left_out:
        run.display.warn(f"note: {left_out:,} records have no feature and are left out; `permafrost extract` says why")
