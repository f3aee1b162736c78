"""A training that kills itself where it hears of an epoch: for :class:`tests.forks.Forks`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import torch

from cache import FeatureStore
from stages.records import Records
from stages.training import (
    ArcFaceConfig,
    EpochLog,
    HeadConfig,
    HeadRecipe,
    LinearHeadConfig,
    LossConfig,
    MultilabelHeadConfig,
    TrainingConfig,
    train_head,
)
from stages.training.pairs.kinds import MarginConfig
from tests.toys.attributes import toy_attributes, toy_records
from tests.toys.training import classes_of, make_records, toy

LABELS = classes_of(20, 8)
LEARNED: dict[str, tuple[HeadConfig, LossConfig | None]] = {
    "margin loss": (LinearHeadConfig(dim=4), ArcFaceConfig(subcenters=2)),
    "pair loss": (LinearHeadConfig(dim=4), MarginConfig(memory=50)),
    "attributes": (MultilabelHeadConfig(task="both", task_weights="learned"), None),
}


def make_features(folder: Path, what: str) -> Path:
    """The store of what :func:`train_and_save` learns from."""
    store, _ = toy_attributes(folder) if what == "attributes" else toy(folder, LABELS)
    return store.path


def train_and_save(store: Path, folder: Path, what: str, on_epoch: Callable[[EpochLog], None]) -> None:
    """Train ``what`` with a checkpoint in ``folder``, going on from it, and save the head there."""
    records: Records = toy_records() if what == "attributes" else make_records(LABELS)
    head, loss = LEARNED[what]
    recipe = HeadRecipe(head, loss, training=TrainingConfig(epochs=6, batch_size=32, ema=0.9))
    checkpoint = folder / "checkpoint"
    train_head(FeatureStore.at(store), records, recipe, on_epoch=on_epoch, checkpoint=checkpoint).save(folder)


def train_until_killed(store: str, folder: str, what: str, epochs: int) -> None:
    """Train as :func:`train_and_save`, and die on hearing of the last of ``epochs``."""
    torch.set_num_threads(1)
    left = iter(range(epochs - 1))

    def listen(epoch: EpochLog) -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    train_and_save(Path(store), Path(folder), what, listen)
