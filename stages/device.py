"""Devices as PyTorch spells them: checked before work begins, named for provenance; and which threads compute.

PyTorch gives every thread that computes a pool of its own. Two pools of two threads on two processors wait for each
other in a circle, and have been measured 20 times slower than one: so one thread computes with all processors.
"""

from __future__ import annotations

import re

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
