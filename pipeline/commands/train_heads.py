"""The command ``train-heads``."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer

from pipeline.commands.options import Device, Json, Quiet, RunFile
from pipeline.dataset import open_run
from pipeline.score_rows import RAW
from pipeline.vectors import find_vectors


def train_heads(
    run_file: RunFile,
    device: Device = "cpu",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write loss, rate and score of every epoch as TensorBoard events.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Stage 2: train the heads on stored features, and embed with them."""
    run = open_run(run_file, quiet=quiet)
    for vectors in find_vectors(run, train=True, tensorboard=tensorboard, device=device):
        if vectors.head != RAW:
            path = str(vectors.store.path)
            line = {"backbone": vectors.backbone, "head": vectors.head, "embeddings": vectors.store.fingerprint}
            text = f"{vectors.backbone} {vectors.head}: {path}"
            typer.echo(json_module.dumps(line | {"path": path}) if json else text)
