"""Which threads compute: one pool for the network, none inside the readers.

PyTorch gives every thread that computes a pool of its own. Two pools of two threads on two processors wait for each
other in a circle, and have been measured 20 times slower than one.
"""

from __future__ import annotations

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def processors() -> int:
    """The processors that this process may use: of its affinity mask, and of its container's share."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
        return min(allowed, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return allowed


def compute_with(threads: int) -> None:
    """Let PyTorch use so many threads for what the calling thread computes."""
    import torch

    torch.set_num_threads(threads)


def own_stream(device: str) -> None:
    """Let what the calling thread computes on a GPU wait for nothing that another thread computes there."""
    import torch

    if device == "cpu":
        return
    torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
