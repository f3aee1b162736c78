"""Two processes that share the classes of a loss out: for :class:`tests.forks.Forks`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from stages.training import ArcFaceConfig, HeadRecipe, LinearHeadConfig, TrainingConfig, train_head
from stages.training.losses import kernel
from stages.training.losses.kernel import MarginSoftmax
from stages.training.losses.plain import plain_loss
from stages.training.losses.streamed import streamed_loss
from tests.toys.losses import CLASSES, FAMILY, batch, build
from tests.toys.training import classes_of, toy


def of_two(work: Callable[[], Any], folder: str) -> None:
    """Fork a second process; both do ``work`` in one group and save what comes of it in ``folder``."""
    rank = 0 if os.fork() else 1
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(work(), f"{folder}/{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()
    if rank:
        os._exit(0)
    os.wait()


def steps(loss: MarginSoftmax) -> list[torch.Tensor]:
    """Values, gradients, moved prototypes and what is learned, of three steps of training and one evaluation."""
    results: list[torch.Tensor] = []
    for step in range(3):
        loss.at(step / 3)
        embeddings, labels = batch(step)
        embeddings[step] = 0
        embeddings.requires_grad_()
        loss.zero_grad()
        value = loss(embeddings, labels)
        value.backward()
        assert embeddings.grad is not None
        assert loss.weight.grad is not None
        with torch.no_grad():
            loss.weight.sub_(0.1 * loss.weight.grad)
        results += [value.detach(), embeddings.grad, loss.weight.detach().clone()]
    loss.eval()
    embeddings, labels = batch(9)
    with torch.no_grad():
        return [*results, loss(embeddings, labels), loss(embeddings[:, :4], labels), *loss.buffers()]


def family(folder: str, kernel_name: str) -> None:
    """:func:`steps` of every loss, shared out to two processes."""
    if kernel_name == "plain":
        kernel.streamed_loss = plain_loss  # type: ignore[attr-defined]

    def work() -> Any:
        sizes = torch.arange(CLASSES) * 3 + 2
        losses = [each.build(6, sizes, torch.Generator().manual_seed(1), distributed.group.WORLD) for each in FAMILY]
        return [steps(loss) for loss in losses]

    of_two(work, folder)


def alone(kernel_name: str) -> list[list[torch.Tensor]]:
    """:func:`steps` of every loss in this process."""
    own = streamed_loss
    kernel.streamed_loss = plain_loss if kernel_name == "plain" else own  # type: ignore[attr-defined]
    try:
        return [steps(build(each)) for each in FAMILY]
    finally:
        kernel.streamed_loss = own  # type: ignore[attr-defined]


RECIPE = HeadRecipe(
    LinearHeadConfig(dim=4), ArcFaceConfig(subcenters=2), training=TrainingConfig(epochs=3, batch_size=16)
)


def head(folder: str) -> None:
    """Train a head in two processes."""

    def work() -> Any:
        features, records = toy(Path(folder, str(distributed.get_rank())), classes_of(9, 6))
        trained = train_head(features, records, RECIPE, seed=3, group=distributed.group.WORLD)
        log = [epoch.loss for epoch in trained.log]
        weights = {name: torch.tensor(weight) for name, weight in trained.weights.items()}
        return {"weights": weights, "log": log, "processes": trained.summary.processes}

    Path(folder, "0").mkdir()
    Path(folder, "1").mkdir()
    of_two(work, folder)
