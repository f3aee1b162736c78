"""Batches gathered ahead: some thousands of rows at once, by a thread, while the steps before them are computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stages.training.rows.labelled_rows import RowSource

_ROWS_AT_ONCE = 4096  # gathered together: one batch at a time would pay the overhead of numpy for each

Batch = npt.NDArray[np.int64]


class Gathered(NamedTuple):
    """Some batches: their rows (n, D), their labels (n,), and how many rows each has."""

    rows: Tensor
    labels: Tensor
    sizes: list[int]


def prefetch(
    source: RowSource, labels: npt.NDArray[np.int64], batches: Sequence[Batch], places: npt.NDArray[np.int64]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows (B, D), in the dtype of ``source``, and labels (B,) of each of ``batches`` of record numbers.

    ``places`` (N,) are the rows of ``source`` that the records have in this epoch. The thread that gathers computes
    nothing, so the results do not depend on it.
    """
    groups = list(_groups(batches))
    if len(groups) == 1:
        yield from _split(_gather(source, labels, places, groups[0]))
        return
    with ThreadPoolExecutor(1) as pool:
        ahead: Future[Gathered] = pool.submit(_gather, source, labels, places, groups[0])
        for following in [*groups[1:], None]:
            gathered = ahead.result()
            if following is not None:
                ahead = pool.submit(_gather, source, labels, places, following)
            yield from _split(gathered)


def _groups(batches: Sequence[Batch]) -> Iterator[Sequence[Batch]]:
    each = max(1, _ROWS_AT_ONCE // max(len(batch) for batch in batches))
    for low in range(0, len(batches), each):
        yield batches[low : low + each]


def _gather(
    source: RowSource, labels: npt.NDArray[np.int64], places: npt.NDArray[np.int64], batches: Sequence[Batch]
) -> Gathered:
    records = np.concatenate(batches)
    rows = source.take(places[records])
    return Gathered(torch.from_numpy(rows), torch.from_numpy(labels[records]), [len(batch) for batch in batches])


def _split(gathered: Gathered) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(
        torch.split(gathered.rows, gathered.sizes), torch.split(gathered.labels, gathered.sizes), strict=True
    )
