"""The devices of PyTorch, and the settings of the process that computing with it takes: threads, memory, switches.

PyTorch gives every thread that computes a pool of its own. Two pools of two threads on two processors wait for each
other in a circle, and have been measured 20 times slower than one: so one thread computes with all processors.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cache.errors import SettingsError


def check_device(device: str) -> None:
    """ValueError unless ``device`` is ``cpu``, ``cuda`` or ``cuda:NUMBER``, and PyTorch has it.

    >>> check_device("cpu")
    """
    if device == "cpu":
        return
    if not re.fullmatch(r"cuda(:\d+)?", device):
        raise SettingsError(f"device must be cpu, cuda or cuda:NUMBER, got {device!r}")
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(
            f"device must be one that PyTorch has (cpu, cuda, cuda:1), got {device!r}: {reason}"
        ) from error


def device_name(device: str) -> str:
    """What provenance calls ``device``: ``cpu``, or the name of the card, ``NVIDIA H100 80GB HBM3``.

    >>> device_name("cpu")
    'cpu'
    """
    if device == "cpu":
        return device
    import torch

    return torch.cuda.get_device_name(device)


def compute_with(threads: int) -> None:
    """Let PyTorch use so many threads for what the calling thread computes."""
    import torch

    torch.set_num_threads(threads)


def own_stream(device: str) -> None:
    """Let what the calling thread computes on a GPU wait for nothing that another thread computes there."""
    if device != "cpu":
        import torch

        torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def keep_freed_memory(*, one_arena: bool = True) -> bool:
    """Tell glibc not to return freed blocks to the system; False where there is no glibc, and nothing changes.

    A forward frees an activation of megabytes after every layer, and pays for fresh pages in the next: without that
    EfficientNet-Lite0 ran 1.8 times as fast in batches of 16 on two cores, 2.6 times in batches of 32. The process
    keeps its peak of memory for life.

    With ``one_arena`` all threads share one arena, because others cannot hold blocks so large. Leave it out where the
    threads decode for a network on a card: they would wait for each other.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    if one_arena:
        mallopt(_M_ARENA_MAX, 1)
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))


class Switches:
    """Settings that threads hold together who want the same; others wait. The last puts back what the first found."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holders = 0
        self._wanted: object = None
        self._restore: Callable[[], object] = lambda: None

    @contextmanager
    def hold(self, wanted: object, write: Callable[[], Callable[[], object]]) -> Iterator[None]:
        """Keep the settings that ``wanted`` stands for: ``write`` makes them, and returns what puts back the old."""
        with self._changed:
            self._changed.wait_for(lambda: not self._holders or self._wanted == wanted)
            if not self._holders:
                self._wanted, self._restore = wanted, write()
            self._holders += 1
        try:
            yield
        finally:
            with self._changed:
                self._holders -= 1
                if not self._holders:
                    self._restore()
                    self._changed.notify_all()
