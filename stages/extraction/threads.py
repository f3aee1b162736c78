"""Which threads compute: as many as there are processors in the networks, none inside the readers.

PyTorch gives every thread that computes a pool of its own. Two pools of two threads on two processors wait for each
other in a circle, and have been measured 20 times slower than one.
"""

from __future__ import annotations


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
