"""A backbone that can be computed by hand, and folders of images as records."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch  # noqa: F401  # before a fork: in the child it would take longer than all that may be killed there
from PIL import Image

from cache import Identity
from cache.storage import LocalStorage
from stages.datasets import FolderConfig
from stages.extraction import Backbone, LocalExecutor, PreprocessConfig, RayExecutor, extract_all
from stages.ray_cluster import RayCluster
from stages.records import Records, read_records

SIZE = 8


def toy_backbone(delay: float = 0.0, **changes: object) -> Backbone:
    """A network that can be computed by hand: the mean of each channel over the four quarters of the image."""
    preprocess = PreprocessConfig().resolve(size=SIZE, mean=(0, 0, 0), std=(1, 1, 1), resize="squash")
    identity = Identity({"backbone": "toy", "preprocess": preprocess.identity(), **changes})  # type: ignore[dict-item]
    return Backbone("toy", 12, identity, preprocess, partial(quarters, delay=delay))


def quarters(batch: npt.NDArray[np.uint8], *, delay: float = 0.0) -> npt.NDArray[np.float32]:
    """The forward of :func:`toy_backbone`, after a pause of ``delay`` seconds."""
    time.sleep(delay)
    means = batch.reshape(len(batch), 3, 2, SIZE // 2, 2, SIZE // 2).astype(np.float32).mean(axis=(3, 5))
    features: npt.NDArray[np.float32] = means.reshape(len(batch), 12) / 255
    return features


def crashing(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """:func:`quarters` in a process that does not outlive an image that is all white."""
    if (batch == 255).all(axis=(1, 2, 3)).any():
        os.write(2, b"white: out of range\n")
        os._exit(3)
    return quarters(batch)


def never(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    raise AssertionError(f"the backbone was run on {len(batch)} images")


def records_of(folder: Path) -> Records:
    return read_records(FolderConfig(path=str(folder)))


def one_image(folder: str) -> Records:
    """The record of an image in red, made below ``folder``."""
    path = Path(folder, "images/red/0.png")
    path.parent.mkdir(parents=True)
    Image.new("RGB", (4, 4), "red").save(path)
    return records_of(path.parents[1])


def extract_slowly(images: str, features: str) -> None:
    """Extract in many small commits, after a line that says so."""
    backbone, executor = toy_backbone(delay=0.01), LocalExecutor(commit_seconds=0.02)
    os.write(1, b"ready\n")
    extract_all(records_of(Path(images)), [backbone], features, batch_size=2, chunk_rows=8, executor=executor)


def extract_until_killed(images: str, features: str, change: int) -> None:
    """Extract two chunks, and die instead of the change of that number to what is stored."""
    left = iter(range(change - 1))

    def dying(method: Callable[..., Any]) -> Callable[..., Any]:
        def until_killed(*arguments: Any) -> Any:
            if change and next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return method(*arguments)

        return until_killed

    for name in ("put", "put_new", "delete"):
        setattr(LocalStorage, name, dying(getattr(LocalStorage, name)))
    extract_all(records_of(Path(images)), [toy_backbone()], features, batch_size=2, chunk_rows=8)


def extract_on_ray(images: str, features: str, address: str) -> None:
    """Extract in many small chunks on the cluster at ``address``, after a line that says so."""
    executor = RayExecutor(RayCluster(address, cpus=1))
    os.write(1, b"ready\n")
    extract_all(
        records_of(Path(images)), [toy_backbone(delay=0.1)], features, batch_size=2, chunk_rows=4, executor=executor
    )
