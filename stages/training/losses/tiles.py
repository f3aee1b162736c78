"""The cosines of all rows with all classes, a tile of them at a time: (B, C) numbers are never there at once.

A tile is a block of classes by a block of rows, small enough for the processor's second-level cache, in buffers that
are used again. There are two passes: :meth:`Tiles.sums` and, once the loss is known, :meth:`Tiles.gradients`, which
computes each tile again rather than read it from memory. Prototypes are brought to unit length a block at a time.

Logits are in units of log 2 here, since powers of two are computed several times faster than those of e. A tile has the
classes first and the rows second, so that all subcenters of a block are one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from stages.training.losses.rule import Rule

Precision: TypeAlias = Literal["float32", "bfloat16"]

LOG2E = 1 / math.log(2)

_BOUNDED = 60.0  # logits up to this can be summed as they are, in float32; above, the row's largest is taken off
_ROWS = 256  # of a tile, at most
_NUMBERS = {"cpu": 1 << 18, "cuda": 1 << 26}  # in a tile, all subcenters


class Tiles:
    """What the classes other than the rows' own give to a softmax, and what they pass back.

    Args:
        unit: (B, E), embeddings of unit length, float32 or float64, their rows in the order of ``places``.
        table: (k, C, E), prototypes of any length and float dtype.
        places: (B,), which class of the table is each row's own; ascending.
        rule: asked for what becomes of the other classes' cosines.
        precision: of the numbers that enter a matrix product, and of a tile.
    """

    def __init__(self, unit: Tensor, table: Tensor, places: Tensor, rule: Rule, precision: Precision) -> None:
        self.unit, self.table, self.places, self.rule = unit, table, places, rule
        self.moves = type(rule).others is not Rule.others
        self.dtype = torch.bfloat16 if precision == "bfloat16" else unit.dtype
        subcenters, classes, dim = table.shape
        self.rows = min(_ROWS, len(unit))
        self.block = min(classes, max(16, _NUMBERS[table.device.type] // (self.rows * subcenters)))
        edges = torch.arange(0, classes + self.block, self.block, device=places.device)
        self.edges = torch.searchsorted(places, edges).tolist()
        self.inverse = unit.new_empty(subcenters, classes, 1)
        self.measured = False
        self.vectors = unit.new_empty(subcenters * self.block * dim)
        self.products = unit.new_empty(subcenters * self.block * self.rows, dtype=self.dtype)
        self.nearest = unit.new_empty(self.block * self.rows, dtype=self.dtype)

    def sums(self, scale: float, own: Tensor, *, logits: bool = False) -> tuple[Tensor, Tensor]:
        """For each row, log2 of the sum over the other classes of exp(scale * cosine), and their ``logits``' sum.

        ``own`` (B,) is what the rule wants to know of the row's own class; sums that are not asked for are zero.
        """
        self._start(scale)
        summed, total = self.unit.new_zeros(len(self.unit)), self.unit.new_zeros(len(self.unit))
        self.offset = self.unit.new_full((len(self.unit),), 0 if self.bounded else -math.inf, dtype=self.dtype)
        for low, high in self._blocks():
            operand = self._vectors(low, high).flatten(0, 1).to(self.dtype)
            for rows in self._rows():
                tile, _ = self._logits(operand, rows, own)
                targets = self._targets(low, rows)
                if logits:
                    tile[targets] = 0
                    total[rows] += tile.sum(0, dtype=total.dtype)
                tile[targets] = -math.inf
                if not self.bounded:
                    largest = torch.maximum(self.offset[rows], tile.amax(0)).clamp_(min=torch.finfo(self.dtype).min)
                    summed[rows] *= torch.exp2(self.offset[rows] - largest)
                    self.offset[rows] = largest
                    tile.sub_(largest)
                summed[rows] += tile.exp2_().sum(0, dtype=summed.dtype)
        return summed.log2_().add_(self.offset), total

    def gradients(self, log_sum: Tensor, own: Tensor, smoothed: float) -> tuple[Tensor, Tensor]:
        """What the other classes pass back, at the scale of the last :meth:`sums`: to ``unit`` and to ``table``.

        A cosine's gradient is scale * (probability - ``smoothed``) / B, the probability exp2(logit - ``log_sum`` (B,)).
        """
        # A tile holds exp2(logit - offset). The factor that makes it the gradient belongs to the row: to its embedding.
        factor = torch.exp2(self.offset - log_sum).clamp_(max=1e30).mul_(self.scale / len(log_sum))
        less = (smoothed * self.scale / len(log_sum) / factor).to(self.dtype) if smoothed else None
        weighted = (self.unit * factor[:, None]).to(self.dtype)
        on_unit, on_table = torch.zeros_like(self.unit), torch.empty_like(self.table, dtype=self.unit.dtype)
        for low, high in self._blocks():
            vectors = self._vectors(low, high)
            operand = vectors.flatten(0, 1).to(self.dtype)
            on_vectors = torch.zeros_like(vectors)
            for rows in self._rows():
                tile, slope = self._logits(operand, rows, own, mark=True)
                if not self.bounded:
                    tile.sub_(self.offset[rows])
                tile.exp2_()
                if less is not None:
                    tile.sub_(less[rows])
                tile[self._targets(low, rows)] = 0
                if slope is not None:
                    tile.mul_(slope)
                on_products = self._share_out(tile)
                _add_product(on_vectors.flatten(0, 1), on_products, weighted[rows])
                _add_product(on_unit[rows], on_products.T, operand)
            along = torch.linalg.vecdot(on_vectors, vectors)[..., None]
            on_vectors.addcmul_(vectors, along, value=-1)
            torch.mul(on_vectors, self.inverse[:, low:high], out=on_table[:, low:high])
        return on_unit.mul_(factor[:, None]), on_table

    def _start(self, scale: float) -> None:
        """Put the scale on the embeddings where it can be: it costs nothing there."""
        self.scale = scale
        self.bounded = not self.moves and scale * LOG2E <= _BOUNDED
        self.right = (self.unit if self.moves else self.unit * (scale * LOG2E)).to(self.dtype)

    def _blocks(self) -> Iterator[tuple[int, int]]:
        classes = self.table.shape[1]
        return ((low, min(low + self.block, classes)) for low in range(0, classes, self.block))

    def _rows(self) -> Iterator[slice]:
        return (slice(low, min(low + self.rows, len(self.unit))) for low in range(0, len(self.unit), self.rows))

    def _vectors(self, low: int, high: int) -> Tensor:
        """The prototypes (k, c, E) of a block of classes, of unit length; their lengths are taken once."""
        block = self.table[:, low:high].to(self.unit.dtype)
        inverse = self.inverse[:, low:high]
        if not self.measured:
            torch.linalg.vector_norm(block, dim=2, keepdim=True, out=inverse)
            inverse.copy_(reciprocal(inverse))
            self.measured = high == self.table.shape[1]
        return torch.mul(block, inverse, out=self.vectors[: block.numel()].view(block.shape))

    def _logits(self, operand: Tensor, rows: slice, own: Tensor, *, mark: bool = False) -> tuple[Tensor, Tensor | None]:
        """The logits (c, b) of a tile in units of log 2, and their slope where the rule moves them (None: it is one).

        With ``mark``, what is left in ``products`` (k, c, b) is 1 where a subcenter is the nearest and 0 elsewhere.
        """
        subcenters, wide = self.table.shape[0], rows.stop - rows.start
        products = self.products[: len(operand) * wide].view(-1, wide)
        torch.mm(operand, self.right[rows].T, out=products)
        products = products.view(subcenters, -1, wide)
        nearest = products[0]
        if subcenters > 1:
            nearest = torch.amax(products, 0, out=self.nearest[: nearest.numel()].view(nearest.shape))
            if mark:
                products[:-1].eq_(nearest)
        if not self.moves:
            return nearest, None
        value, slope = self.rule.others(nearest.T.to(self.unit.dtype), own[rows])
        return value.T.mul(self.scale * LOG2E).to(self.dtype), None if slope is None else slope.T.to(self.dtype)

    def _targets(self, low: int, rows: slice) -> tuple[Tensor, Tensor]:
        """Where the rows' own classes are in a tile: their places in the block, and their rows in the tile."""
        at = low // self.block
        first, last = max(self.edges[at], rows.start), min(self.edges[at + 1], rows.stop)
        columns = torch.arange(first - rows.start, max(first, last) - rows.start, device=self.places.device)
        return self.places[first : max(first, last)] - low, columns

    def _share_out(self, tile: Tensor) -> Tensor:
        """``tile`` (c, b) given to the subcenters that were marked, the first of equals, as (k*c, b)."""
        subcenters = self.table.shape[0]
        products = self.products[: subcenters * tile.numel()].view(subcenters, *tile.shape)
        for subcenter in range(subcenters - 1):
            products[subcenter].mul_(tile)
            tile.sub_(products[subcenter])
        products[-1].copy_(tile)
        return products.flatten(0, 1)


def reciprocal(lengths: Tensor) -> Tensor:
    """1 / ``lengths``, and 0 for 0: a vector without a direction stays zero, and passes nothing back."""
    return torch.where(lengths > 0, lengths, torch.inf).reciprocal_()


def _add_product(to: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left @ right`` to ``to``; products of bfloat16 are summed in float32, and rounded before they are added."""
    if left.dtype == to.dtype:
        to.addmm_(left, right)
    else:
        to.add_(left @ right)
