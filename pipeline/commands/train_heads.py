"""``permafrost train-heads``: stage 2: train the heads on stored features, and embed with them."""

from __future__ import annotations

from typing import Annotated

import typer

from cache.errors import RecordsError
from pipeline.commands.options import Device, Json, Quiet, RunFile, emit
from pipeline.config import RAW
from pipeline.dataset import open_run
from pipeline.vectors import find_vectors
from stages.training.process_group import is_first, torchrun_group


def train_heads(
    run_file: RunFile,
    device: Device = "cpu",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write loss, rate and score of every epoch as TensorBoard events.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Stage 2: train the heads on stored features, and embed with them.

    Begun by torchrun, the processes share out the classes of each head's loss: for millions of classes.
    """
    with torchrun_group(device) as (group, own_device):
        run = open_run(run_file, quiet=quiet or not is_first())
        if not run.records.has_labels:
            raise RecordsError(
                f"none of the {len(run.records):,} images has a label, and heads learn from labels: put the images in "
                "a folder a class, or name the column with label = ... under [dataset]. The raw feature needs no "
                f"label: permafrost search {run_file} IMAGE --head raw"
            )
        for vectors in find_vectors(run, train=True, tensorboard=tensorboard, device=own_device, group=group):
            if vectors.head != RAW and is_first():
                store, path = vectors.store, vectors.store.address
                line = {"backbone": vectors.backbone, "head": vectors.head, "embeddings": store.fingerprint}
                emit(json, f"{vectors.backbone} {vectors.head}: {path}", line | {"path": path})
