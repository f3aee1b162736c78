"""Batches gathered ahead: some thousands of rows at once, by a thread, while the steps before them are computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stages.training.rows.labelled_rows import RowSource

_ROWS_AT_ONCE = 4096  # gathered together: one batch at a time would pay the overhead of numpy for each

Batch = npt.NDArray[np.int64]


def prefetch(
    source: RowSource, labels: npt.NDArray[np.int64], batches: Sequence[Batch], places: npt.NDArray[np.int64]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows (B, D), in the dtype of ``source``, and labels (B,) of each of ``batches`` of record numbers.

    ``places`` (N,) are the rows of ``source`` that the records have in this epoch. The thread that gathers computes
    nothing, so the results do not depend on it.
    """
    each = max(1, _ROWS_AT_ONCE // max(len(batch) for batch in batches))
    groups = [batches[low : low + each] for low in range(0, len(batches), each)]

    def gather(group: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        records = np.concatenate(group)
        return torch.from_numpy(source.take(places[records])), torch.from_numpy(labels[records])

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(gather, groups[0])
        for group, following in zip(groups, [*groups[1:], None], strict=True):
            gathered, sizes = ahead.result(), [len(batch) for batch in group]
            if following is not None:
                ahead = pool.submit(gather, following)
            yield from zip(*(torch.split(part, sizes) for part in gathered), strict=True)
