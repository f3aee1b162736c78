"""A bundle that is changed by a process that kills itself: for :class:`tests.forks.Forks`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.bundle import Bundle
from pipeline.bundle.changes import add_images, publish, remove_images
from pipeline.encoder import Encoder
from stages.datasets import FolderConfig


def change(path: Path, images: Path) -> None:
    """Add the ``images`` that are lacking and publish them, then remove those labelled ``gone`` and delete the old."""
    bundle = Bundle.open(path)
    add_images(bundle, FolderConfig(path=str(images)), encoder=lambda: Encoder(bundle.embedder(), workers=1))
    publish(bundle)
    remove_images(bundle, where={"label": ["gone"]})
    publish(bundle, prune=True)


def change_until_killed(path: str, images: str, step: int) -> None:
    """:func:`change`, and die instead of the step of that number: each time a file is flushed, renamed or deleted."""
    torch.set_num_threads(1)
    left = iter(range(step - 1))

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def until_killed(*arguments: Any, **options: Any) -> Any:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return until_killed

    for name in ("fsync", "rename", "replace", "unlink", "rmdir"):
        setattr(os, name, dying(getattr(os, name)))
    change(Path(path), Path(images))
