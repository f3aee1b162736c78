"""``permafrost encode``: write the vectors of a folder as a Parquet file; killed and started again, it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.bundle import Bundle
from pipeline.commands.options import BundleFolder, Device, Json, Quiet, Workers, emit, images_there
from pipeline.encoded_table import encode_folder
from pipeline.encoder import Encoder
from pipeline.progress import Display


def encode(
    bundle: BundleFolder,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The images, in it and below it.", callback=images_there)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The Parquet file to write.")],
    device: Device = "cpu",
    workers: Workers = None,
    max_failures: Annotated[
        float, typer.Option(min=0, max=1, help="Share of images that may fail before the exit status says so.")
    ] = 0.01,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the vectors of a folder of images as a Parquet file; killed and started again, it goes on."""
    display = Display(quiet=quiet)
    opened = Bundle.open(bundle)
    display.say(f"loading {opened.described['backbone']}")
    encoder = Encoder(opened.embedder(device), workers=workers)
    with display.bar("encoding", "images") as update:
        written = encode_folder(encoder, opened.embeddings, folder, output, on_note=display.warn, on_progress=update)
    display.list_failed(written.failed, f"; the column error of {output} has them")
    failed = len(written.failed)
    line = {"output": str(output), "embeddings": opened.embeddings, **written._asdict(), "failed": failed}
    emit(json, f"{output}: {written.images:,} images, {written.computed:,} encoded now, {failed:,} failed", line)
    if failed > max_failures * written.images:
        display.warn(f"{failed:,} of {written.images:,} images failed: more than --max-failures allows")
        raise typer.Exit(1)
