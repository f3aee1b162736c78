"""The processes that ``torchrun`` began, as a group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def is_first() -> bool:
    """Whether this is the process that writes and prints: the first of ``torchrun``, or the only one."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def torchrun_group(device: str) -> Iterator[tuple[ProcessGroup | None, str]]:
    """The group of all processes that ``torchrun`` began, and the device of this one; no group of a single process.

    >>> with torchrun_group("cpu") as (group, device):
    ...     print(group, device)
    None cpu
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield None, device
        return
    from torch import distributed

    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    # The first embeds images while the others wait; one that dies ends the connection at once.
    distributed.init_process_group("gloo" if device == "cpu" else "nccl", timeout=timedelta(days=1))
    try:
        yield distributed.group.WORLD, device
    finally:
        distributed.destroy_process_group()
