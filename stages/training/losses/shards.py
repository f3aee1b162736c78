"""The classes of a loss shared out to the processes of a group: each has the prototypes of its own, all have the batch.

::

    every process   the batch (B, E), its labels, the rule and its state
    process r       prototypes (k, C_r, E) of the classes from ``low`` up to ``high``

What is a sum over all classes is summed over the processes: vectors of B numbers, and once (B, E), the gradient of the
embeddings (An et al., Partial FC, ICCVW 2021). So every process has the same loss. One alone sends nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from cache.errors import DivergedError

_ELSEWHERE = 2**40  # the place of a row whose class is one of a later process
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True, eq=False)
class Shard:
    """The classes from ``low`` up to ``high`` of so many ``classes``, which a process of ``group`` has."""

    classes: int
    low: int
    high: int
    group: distributed.ProcessGroup | None = None

    @classmethod
    def of(cls, classes: int, group: distributed.ProcessGroup | None) -> Shard:
        """Of ``classes`` as many as the others have, give or take one; all without a ``group``."""
        if group is None:
            return cls(classes, 0, classes)
        rank, size = distributed.get_rank(group), distributed.get_world_size(group)
        return cls(classes, classes * rank // size, classes * (rank + 1) // size, group)

    def __len__(self) -> int:
        return self.high - self.low

    def places(self, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Where the ascending ``labels`` (B,) are among the classes here, and which are, None for all.

        Of the others the place is below 0 or beyond every class, so that all ascend still.
        """
        if self.group is None:
            return labels, None
        places = labels - self.low
        places = places.masked_fill(places >= len(self), _ELSEWHERE)
        return places, (places >= 0) & (places < len(self))

    def sum(self, values: Tensor) -> Tensor:
        """The sum of ``values`` over the processes, not differentiated; may be written in place."""
        return self._reduced(values, distributed.ReduceOp.SUM)

    def largest(self, values: Tensor) -> Tensor:
        """The largest of ``values`` over the processes, likewise."""
        return self._reduced(values, distributed.ReduceOp.MAX)

    def _reduced(self, values: Tensor, operation: distributed.ReduceOp.RedOpType) -> Tensor:
        if self.group is not None:
            values = values.contiguous()
            distributed.all_reduce(values, operation, self.group)
        return values

    def log2_sum(self, logs: Tensor) -> Tensor:
        """log2 of the sum over the processes of 2^``logs``, not differentiated."""
        if self.group is None:
            return logs
        most = self.largest(logs.clone())
        return self.sum(torch.exp2(logs - most)).log2_().add_(most)

    def total(self, values: Tensor) -> Tensor:
        """:meth:`sum`, differentiated: all processes have one loss of it, so that its gradient is that of each part."""
        return values if self.group is None else _Across.apply(values, self, False)

    def entering(self, values: Tensor) -> Tensor:
        """``values``, the same in all processes; their gradient is the sum of those that come from the shards."""
        return values if self.group is None else _Across.apply(values, self, True)

    def draw(self, subcenters: int, dim: int, generator: torch.Generator) -> Tensor:
        """The rows here of a matrix (k*C, E) of ``nn.init.xavier_uniform_``, of which a part is in memory at a time."""
        bound = math.sqrt(3) * math.sqrt(2 / (self.classes * subcenters + dim))  # to the bit
        table, filled = torch.empty(subcenters * len(self), dim), 0
        for low in list(range(0, self.classes, _ROWS_AT_ONCE)) * subcenters:
            rows = min(_ROWS_AT_ONCE, self.classes - low)
            drawn = torch.empty(rows, dim).uniform_(-bound, bound, generator=generator)
            own = drawn[max(self.low - low, 0) : max(self.high - low, 0)]
            table[filled : filled + len(own)] = own
            filled += len(own)
        return table


WHOLE = Shard(0, 0, 0)  # of one process, however many classes there are


class _Across(torch.autograd.Function):
    """The sum over the processes: of the values, or, where they are ``entering``, of their gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, shard: Shard, entering: bool) -> Tensor:
        ctx.shard, ctx.entering = shard, entering
        return values.view_as(values) if entering else shard.sum(values.clone())

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor, None, None]:
        return ctx.shard.sum(incoming.clone()) if ctx.entering else incoming, None, None


def check_same(network: nn.Module, group: distributed.ProcessGroup) -> None:
    """Raise DivergedError unless each weight has the same sum, to the bit, in all processes of ``group``."""
    sums = torch.stack([weight.detach().double().sum() for weight in network.parameters()])
    ends = torch.cat([sums, -sums])
    distributed.all_reduce(ends, distributed.ReduceOp.MAX, group)
    if not torch.equal(ends[: len(sums)], -ends[len(sums) :]):
        raise DivergedError(
            "the processes have come to different weights: they must run on processors or cards of one kind, with one "
            "number of threads and one version of PyTorch"
        )
