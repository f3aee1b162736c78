"""A training in a process of its own, which kills itself where it hears of an epoch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
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
from stages.training.pairs import MarginConfig
from tests.toys.attributes import toy_attributes, toy_records
from tests.toys.training import classes_of, make_records, toy

ROOT = Path(__file__).parent.parent.parent
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


def train_until_killed(store: Path, folder: Path, what: str, epochs: int) -> int:
    """The exit status of a process that trains, and kills itself as it hears of the last of ``epochs``."""
    command = [sys.executable, "-W", "ignore", "-m", __name__, str(store), str(folder), what, str(epochs)]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False).returncode


if __name__ == "__main__":
    torch.set_num_threads(1)
    left = iter(range(int(sys.argv[4]) - 1))
    train_and_save(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        sys.argv[3],
        lambda epoch: None if next(left, None) is not None else os.kill(os.getpid(), signal.SIGKILL),
    )
