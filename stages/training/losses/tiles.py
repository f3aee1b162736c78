"""The cosines of all rows with all classes on a processor, a tile at a time: (B, C) numbers never exist at once.

A tile is a block of classes by a block of rows, small enough for the processor's second-level cache, in buffers that
are used again. There are two passes: :meth:`Tiles.sums` and, once the loss is known, :meth:`Tiles.gradients`, which
computes a tile again rather than read it from memory; as many as fit into the third-level cache are kept instead.
Prototypes are brought to unit length a block at a time. Blocks are shared out to worker threads.

Logits are in units of log 2 here, a = s c / log 2, since powers of two take a fraction of the time of those of e. A
tile has the classes first and the rows second, so that all subcenters of a block are one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.training.losses.kinds import Precision
from stages.training.losses.rules import Rule
from stages.training.worker_threads import in_worker_threads, worker_count

LOG2E = 1 / math.log(2)

_BOUNDED = 60.0  # logits up to this can be summed as they are, in float32; above, the row's largest is taken off
_ROWS = 256  # of a tile, at most
_CLASSES = 16  # of a tile, at least
_NUMBERS = 1 << 19  # in a tile, all subcenters
_KEPT = 1 << 22  # in the tiles that are kept from the first pass to the second


@dataclass(frozen=True, eq=False)
class _Tile:
    """``values`` (c, b): logits at first, later less ``offset`` (b,), exponentiated; ``slope`` is theirs, None for 1.

    ``products`` (k, c, b) were the cosines of each subcenter; in all but the last, 1 is now where it was the nearest.
    """

    values: Tensor
    products: Tensor
    slope: Tensor | None
    offset: Tensor


class Tiles:
    """The part of the softmax that belongs to classes other than the rows' own, and its gradients.

    Of embeddings ``unit`` (B, E) of unit length and prototypes ``table`` (k, C, E) of any. ``places`` (B,), which
    ascend, are the rows' own classes. ``rule`` moves the others' cosines, ``precision`` is that of the factors of a
    matrix product and of a tile, and ``weights`` (C,) are log2 of what a class counts for, by default 1.
    """

    def __init__(
        self, unit: Tensor, table: Tensor, places: Tensor, rule: Rule, precision: Precision, weights: Tensor | None
    ) -> None:
        self.unit, self.table, self.places, self.rule = unit, table, places, rule
        self.moves = type(rule).others is not Rule.others
        self.dtype = torch.bfloat16 if precision == "bfloat16" else unit.dtype
        self.weights = None if weights is None else weights[:, None].to(self.dtype)
        subcenters, classes, dim = table.shape
        self.workers = worker_count(table.device)
        self.rows = min(_ROWS, len(unit))
        most = max(_CLASSES, _NUMBERS // (self.rows * subcenters))
        self.block = min(most, -(-classes // self.workers))
        edges = torch.arange(0, classes + self.block, self.block, device=places.device)
        self.edges = torch.searchsorted(places, edges).tolist()
        self.inverse, self.measured = unit.new_empty(subcenters, classes, 1), False
        self.vectors = unit.new_empty(self.workers, subcenters * self.block * dim)
        self.scratch = [self._new_buffer(self.block, self.rows) for _ in range(self.workers)]
        self.kept: dict[tuple[int, int], _Tile] = {}

    def sums(self, scale: float, own: Tensor, *, logits: bool = False, keep: bool = False) -> tuple[Tensor, Tensor]:
        """For each row, log2 of the weighted sum over the other classes of exp(scale * cosine), and ``logits``' sum.

        ``own`` (B,) is the moved target, for the rule. Sums that are not requested are zero.
        ``keep`` for :meth:`gradients`, which comes next.
        """
        self.scale = scale
        self.bounded = not self.moves and scale * LOG2E <= _BOUNDED
        self.right = (self.unit if self.moves else self.unit * (scale * LOG2E)).to(self.dtype)
        room = _KEPT // self.workers if keep and not self.moves else 0
        parts = in_worker_threads(lambda worker: self._worker_sums(worker, own, logits=logits, room=room), self.workers)
        self.measured = True
        summed, offset, total = (torch.stack(part) for part in zip(*parts, strict=True))
        self.offset = offset.amax(0)
        summed = (summed * torch.exp2(offset - self.offset)).sum(0)
        return summed.log2_().add_(self.offset), total.sum(0)

    def _worker_sums(self, worker: int, own: Tensor, *, logits: bool, room: int) -> tuple[Tensor, Tensor, Tensor]:
        """Over a worker's blocks: the sums of exp2(logit - offset), the offsets, and the logits' sums, (B,) each."""
        size = len(self.unit)
        summed, total = self.unit.new_zeros(size), self.unit.new_zeros(size)
        lowest = 0 if self.bounded else torch.finfo(self.dtype).min
        offset = self.unit.new_full((size,), lowest, dtype=self.dtype)
        for low, high in self._blocks(worker):
            operand = self._vectors(worker, low, high).flatten(0, 1).to(self.dtype)
            for rows in self._rows():
                room -= self.table.shape[0] * (high - low) * (rows.stop - rows.start)
                tile = self._tile(operand, rows, own, None if room >= 0 else self.scratch[worker])
                values, targets = tile.values, self._targets(low, rows)
                if logits:
                    values[targets] = 0
                    total[rows] += values.sum(0, dtype=total.dtype)
                if self.weights is not None:
                    values.add_(self.weights[low:high])
                values[targets] = -math.inf
                if not self.bounded:
                    # With S = sum 2^(a - o) over the tiles so far, a larger maximum o' makes it S 2^(o - o').
                    torch.maximum(offset[rows], values.amax(0), out=tile.offset)
                    summed[rows] *= torch.exp2(offset[rows] - tile.offset)
                    offset[rows] = tile.offset
                    values.sub_(tile.offset)
                summed[rows] += values.exp2_().sum(0, dtype=summed.dtype)
                if room >= 0:
                    self.kept[low, rows.start] = tile
        return summed, offset, total

    def gradients(self, log_sum: Tensor, own: Tensor, smoothed: float) -> tuple[Tensor, Tensor]:
        """The gradients by ``unit`` and by ``table`` through the other classes, at the scale of the last :meth:`sums`.

        A cosine's gradient is scale * (probability - ``smoothed``) / B, the probability exp2(logit - ``log_sum`` (B,))
        times the weight of the class.
        """
        # A tile P (c, b) holds exp2(a - offset). With f = exp2(offset - log_sum) s / B (b,) for each row,
        #
        #     dloss/dc = s/B p = f P           (c, b)
        #     dloss/dv = (f P) u = P (f u)     a product of P (c, b) and ``weighted`` (b, E)
        #     dloss/du = (f P)' v = f (P' v)   a product of P' (b, c) and v (c, E), times f at the very end
        #
        # so that no tile is multiplied by f. Smoothed, dloss/dc is s/B (p - smoothed), and f may be 0: then the tile
        # becomes p - smoothed, and f is s/B. It is 0 at the rows' own classes, and multiplied by the rule's slope. A
        # prototype w = |w| v gets dloss/dw = (dloss/dv - (v dloss/dv) v) / |w|.
        factor, share = torch.exp2(self.offset - log_sum).clamp_(max=1e30), None
        if smoothed:
            share, factor = factor.to(self.dtype), torch.ones_like(factor)
        factor.mul_(self.scale / len(log_sum))
        weighted = (self.unit * factor[:, None]).to(self.dtype)
        on_table = torch.empty_like(self.table, dtype=self.unit.dtype)
        parts = in_worker_threads(
            lambda worker: self._worker_gradients(worker, own, weighted, (share, smoothed), on_table), self.workers
        )
        return sum(parts[1:], parts[0]).mul_(factor[:, None]), on_table

    def _worker_gradients(
        self, worker: int, own: Tensor, weighted: Tensor, smoothing: tuple[Tensor | None, float], on_table: Tensor
    ) -> Tensor:
        """Write the gradient of a worker's blocks into ``on_table``; return the embeddings' (B, E) / factor."""
        share, smoothed = smoothing
        on_unit, on_vectors = torch.zeros_like(self.unit), torch.empty_like(self.vectors[worker])
        for low, high in self._blocks(worker):
            vectors = self._vectors(worker, low, high)
            operand = vectors.flatten(0, 1).to(self.dtype)
            passed = on_vectors[: vectors.numel()].view(vectors.shape)
            for rows in self._rows():
                tile = self._probabilities(worker, low, operand, rows, own)
                if share is not None:
                    tile.values.mul_(share[rows]).sub_(smoothed)
                tile.values[self._targets(low, rows)] = 0
                if tile.slope is not None:
                    tile.values.mul_(tile.slope)
                on_products = _share_out(tile)
                _add_product(passed.flatten(0, 1), on_products, weighted[rows], first=rows.start == 0)
                _add_product(on_unit[rows], on_products.T, operand)
            along = torch.linalg.vecdot(passed, vectors)[..., None]
            passed.addcmul_(vectors, along, value=-1)
            torch.mul(passed, self.inverse[:, low:high], out=on_table[:, low:high])
        return on_unit

    def _blocks(self, worker: int) -> Iterator[tuple[int, int]]:
        """Where a worker's blocks of classes begin and end."""
        classes, step = self.table.shape[1], self.block * self.workers
        return ((low, min(low + self.block, classes)) for low in range(worker * self.block, classes, step))

    def _rows(self) -> Iterator[slice]:
        return (slice(low, min(low + self.rows, len(self.unit))) for low in range(0, len(self.unit), self.rows))

    def _vectors(self, worker: int, low: int, high: int) -> Tensor:
        """The prototypes (k, c, E) of a block of classes, of unit length; their lengths are taken in the first pass."""
        block, inverse = self.table[:, low:high].to(self.unit.dtype), self.inverse[:, low:high]
        if not self.measured:
            inverse.copy_(reciprocal(torch.linalg.vector_norm(block, dim=2, keepdim=True)))
        return torch.mul(block, inverse, out=self.vectors[worker, : block.numel()].view(block.shape))

    def _new_buffer(self, classes: int, rows: int) -> Tensor:
        """Room for a tile and, where there are several subcenters, for the cosines of each."""
        subcenters = self.table.shape[0]
        return self.unit.new_empty((subcenters + (subcenters > 1)) * classes * rows, dtype=self.dtype)

    def _tile(self, operand: Tensor, rows: slice, own: Tensor, buffer: Tensor | None) -> _Tile:
        """The logits of ``rows`` with a block of classes, whose prototypes are ``operand`` (k*c, E); None: to keep."""
        subcenters, wide = self.table.shape[0], rows.stop - rows.start
        classes = len(operand) // subcenters
        room = self._new_buffer(classes, wide) if buffer is None else buffer[: (subcenters + 1) * classes * wide]
        products = room[: len(operand) * wide].view(subcenters, classes, wide)
        torch.mm(operand, self.right[rows].T, out=products.flatten(0, 1))
        values, offset = products[0], operand.new_zeros(wide)
        if subcenters > 1:
            values = torch.amax(products, 0, out=room[len(operand) * wide :].view(classes, wide))
            products[:-1].eq_(values)
        if not self.moves:
            return _Tile(values, products, None, offset)
        value, slope = self.rule.others(values.T.to(self.unit.dtype), own[rows])
        moved = value.T.mul(self.scale * LOG2E).to(self.dtype)
        return _Tile(moved, products, None if slope is None else slope.T.to(self.dtype), offset)

    def _probabilities(self, worker: int, low: int, operand: Tensor, rows: slice, own: Tensor) -> _Tile:
        """A tile with exp2(logit - offset): kept, or computed again."""
        tile = self.kept.pop((low, rows.start), None)
        if tile is None:
            tile = self._tile(operand, rows, own, self.scratch[worker])
            if self.weights is not None:
                tile.values.add_(self.weights[low : low + len(tile.values)])
            if not self.bounded:
                tile.values.sub_(self.offset[rows])
            tile.values.exp2_()
        elif not self.bounded:
            tile.values.mul_(torch.exp2(tile.offset - self.offset[rows]))
        return tile

    def _targets(self, low: int, rows: slice) -> tuple[Tensor, Tensor]:
        """Where the rows' own classes are in a tile: their places in the block, and their rows in the tile."""
        at = low // self.block
        first = max(self.edges[at], rows.start)
        last = max(first, min(self.edges[at + 1], rows.stop))
        columns = torch.arange(first - rows.start, last - rows.start, device=self.places.device)
        return self.places[first:last] - low, columns


def reciprocal(lengths: Tensor) -> Tensor:
    """1 / ``lengths``, and 0 for 0: a zero vector stays zero, and gets a zero gradient."""
    return lengths.reciprocal().nan_to_num_(nan=math.nan, posinf=0.0)


def _share_out(tile: _Tile) -> Tensor:
    """The values given to the subcenters that were nearest, the first of equals, as (k*c, b); they are used up."""
    *first, last = tile.products
    rest = tile.values
    for number, marks in enumerate(first, 1):
        marks.mul_(rest)
        rest = torch.sub(rest, marks, out=last if number == len(first) else rest)
    if not first and rest is not last:
        last.copy_(rest)
    return tile.products.flatten(0, 1)


def _add_product(to: Tensor, left: Tensor, right: Tensor, *, first: bool = False) -> None:
    """Add ``left @ right`` to ``to``, or put it there; products of bfloat16 are rounded once more before they are."""
    if left.dtype == to.dtype:
        to.addmm_(left, right, beta=0 if first else 1)
    elif first:
        to.copy_(left @ right)
    else:
        to.add_(left @ right)
