"""How many images go through a network at once: found by trial, and remembered by the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from stages.device import own_stream
from stages.extraction.backbones import Backbone

ON_CPU = 32  # from 16 images on, a CPU's rate changes by a few percent only
_SIZES = (8, 16, 32, 64, 128, 256, 512)
_WORTH = 1.05  # twice the memory must give 5 % more images a second
_TRIAL_SECONDS = 10.0


def find_batch_size(backbones: Sequence[Backbone]) -> int:
    """The smallest size at which twice as many images would hardly be faster, or would not fit into memory.

    As in extraction two batches are in memory at once.
    """
    forwards = {backbone.forward: backbone.preprocess for backbone in backbones}
    device = next((backbone.device for backbone in backbones if backbone.device != "cpu"), "cpu")

    def run(images: int) -> None:
        for forward, p in forwards.items():
            forward(np.zeros((images * p.count, 3, p.size, p.size), np.uint8))

    with ThreadPoolExecutor(2, "trial", initializer=own_stream, initargs=(device,)) as pool:

        def seconds(images: int) -> float:
            for _ in range(2):  # once to allocate and choose algorithms, once for the clock
                started = time.perf_counter()
                for trial in [pool.submit(run, images) for _ in range(2)]:
                    trial.result()
            return time.perf_counter() - started

        return settle(seconds, time.perf_counter)


def settle(seconds: Callable[[int], float], clock: Callable[[], float]) -> int:
    """Double the size while ``seconds`` (of a size) says that it pays, memory suffices and ``clock`` leaves time."""
    import torch

    began, best, best_rate = clock(), _SIZES[0], 0.0
    for size in _SIZES:
        try:
            rate = size / seconds(size)
        except (torch.OutOfMemoryError, MemoryError):
            torch.cuda.empty_cache()
            break
        if rate < best_rate * _WORTH:
            break
        best, best_rate = size, rate
        if clock() - began > _TRIAL_SECONDS:
            break
    return best
