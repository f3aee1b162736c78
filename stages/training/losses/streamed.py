"""The loss of a batch and its gradients, computed together: backward only multiplies them.

The target of each row is gathered apart from the other classes and moved by the rule, which autograd differentiates:
vectors of B numbers. The other classes come from :class:`~stages.training.losses.tiles.Tiles`. (Fused linear cross
entropies are made so: Wijmans et al., Cut Your Losses, ICLR 2025; Hsu et al., Liger Kernel, 2024.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from stages.training.losses.angle import lengths_of
from stages.training.losses.kinds import Precision
from stages.training.losses.rules import Rule
from stages.training.losses.shards import WHOLE, Shard
from stages.training.losses.tiles import LOG2E, Tiles, reciprocal


@dataclass(frozen=True, eq=False)
class Softmax:
    """What the loss is, apart from its vectors."""

    rule: Rule
    scale: float
    smoothing: float
    subcenters: int
    precision: Precision
    learn: bool  # whether gradients are wanted
    observe: bool  # whether the rule learns
    rate: float = 1.0  # the probability with which a class that no row of the batch has is looked at
    shard: Shard = WHOLE  # which of all classes this process has

    def weights(self, places: Tensor, classes: int) -> Tensor | None:
        """The logarithm (S,) of what each of ``classes`` counts for, 1 / rate but for the rows' own; None where all 1.

        So weighted, the sum is that over all classes in the mean over choices of classes.
        """
        if self.rate == 1:
            return None
        weights = torch.full((classes,), -math.log(self.rate), device=places.device)
        return weights.index_fill_(0, places, 0.0)


def streamed_loss(
    embeddings: Tensor, weight: Tensor, labels: Tensor, softmax: Softmax, classes: Tensor | None = None
) -> Tensor:
    """The mean loss of ``embeddings`` (B, E), of any length, with ``labels`` (B,): a scalar, float32 or finer.

    With ``classes`` (S,), ascending and every label among them, only their rows of ``weight`` (k*C, E) are read, and
    its gradient is sparse.
    """
    loss: Tensor = _Streamed.apply(embeddings, weight, labels, softmax, classes)
    return loss


class _Streamed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, embeddings: Tensor, weight: Tensor, labels: Tensor, softmax: Softmax, classes: Tensor | None
    ) -> Tensor:
        table, places = weight.view(softmax.subcenters, -1, weight.shape[1]), labels
        ctx.shape, ctx.rows = weight.shape, None
        if classes is not None:
            first = torch.arange(softmax.subcenters, device=classes.device)[:, None] * table.shape[1]
            rows = (first + classes).view(-1)
            table = weight.index_select(0, rows).view(len(first), -1, weight.shape[1])
            places, ctx.rows = torch.searchsorted(classes, labels), rows[None]
        table = table[..., : embeddings.shape[1]]
        loss, gradients = _loss_and_gradients(embeddings, table, labels, places, softmax)
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        on_embeddings, on_table = ctx.saved_tensors
        if incoming.item() != 1:
            on_embeddings, on_table = on_embeddings * incoming, on_table * incoming
        on_table = on_table.view(-1, on_table.shape[2])
        if on_table.shape[1] < ctx.shape[1]:
            on_table = functional.pad(on_table, (0, ctx.shape[1] - on_table.shape[1]))
        if ctx.rows is not None:  # rows of its own, or autograd would copy the values
            rows = ctx.rows.clone()
            on_table = torch.sparse_coo_tensor(rows, on_table, ctx.shape, is_coalesced=True, check_invariants=False)
        return on_embeddings, on_table, None, None, None


def _loss_and_gradients(
    embeddings: Tensor, table: Tensor, labels: Tensor, places: Tensor, softmax: Softmax
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The loss, and to learn from its gradients; ``places`` (B,) are the labels' classes in ``table`` (k, S, E)."""
    # Of one row: z (E,) its embedding, n = |z|, u = z / n; v_j = w_j / |w_j| (E,) the nearest subcenter of class j, and
    # c_j = u v_j. y is its class, m = rule.target(c_y, n), o_j = rule.others(c_j, m), s the scale, e the smoothing:
    #
    #     l_y = s m,  l_j = s o_j,  p = softmax(l)
    #     loss    = log sum_j exp(l_j) - (1 - e) l_y - e/C sum_j l_j
    #     dloss/dm   = s (p_y - (1 - e) - e/C)                    on_moved; autograd takes it through the rule to c_y, n
    #     dloss/dc_j = s (p_j - e/C) do_j/dc_j                    Tiles.gradients: m is a constant of rule.others
    #     dloss/du   = sum_{j != y} dloss/dc_j v_j + dloss/dc_y v_y
    #     dloss/dz   = (dloss/du - (u dloss/du) u) / n + dloss/dn u        since du/dz = (I - uu') / n, dn/dz = u
    #     dloss/dw_y = dloss/dc_y (u - c_y v_y) / |w_y|                    since dc/dw = (u - c v) / |w|
    #
    # and the mean over B rows divides each by B. Logits are in units of log 2: see tiles.py.
    rule, size, classes, shard = softmax.rule, len(places), table.shape[1], softmax.shard
    dtype = torch.promote_types(table.dtype, torch.float32)
    places, order = torch.sort(places, stable=True)  # so that a block of classes knows its own rows
    sorted_embeddings = embeddings.index_select(0, order).to(dtype)
    norms = lengths_of(sorted_embeddings)
    inverse = reciprocal(norms)[:, None]
    unit = sorted_embeddings * inverse
    places, present = shard.places(places)
    own, own_inverse, winner, cosine = _nearest_of_own(table, places, present, unit)
    cosine = shard.sum(cosine)
    weights = softmax.weights(places, classes)
    tiles = Tiles(unit, table, places, rule, softmax.precision, None if weights is None else weights * LOG2E)
    if softmax.observe:
        rule.observe(cosine, norms)
        if rule.needs_sums:
            log_sums, _ = tiles.sums(float(rule.scale(softmax.scale)), cosine)
            rule.observe_sums(cosine, shard.log2_sum(log_sums) * math.log(2))
    scale = float(rule.scale(softmax.scale))
    inputs = (cosine.clone().requires_grad_(softmax.learn), norms.clone().requires_grad_(softmax.learn))
    with torch.enable_grad():
        moved, penalty = rule.target(*inputs, labels.index_select(0, order)), rule.penalty(inputs[1])
    others, logits = tiles.sums(scale, moved.detach(), logits=softmax.smoothing > 0, keep=softmax.learn)
    target = moved.detach() * (scale * LOG2E)
    log_sum = torch.logaddexp2(shard.log2_sum(others), target)
    spread = softmax.smoothing / (classes if shard.group is None else shard.classes)
    logits = shard.sum(logits) if softmax.smoothing else logits
    own_share = 1 - softmax.smoothing + spread
    loss = (log_sum - own_share * target - spread * logits).mean() * math.log(2)
    if penalty is not None:
        loss = loss + penalty.detach()
    if not softmax.learn:
        return loss, ()
    with torch.enable_grad():  # the gradient of the sum by ``moved`` is its factor
        total = (moved * ((torch.exp2(target - log_sum) - own_share) * (scale / size))).sum()
        total = total if penalty is None else total + penalty
    through_rule = torch.autograd.grad(total, inputs, materialize_grads=True, allow_unused=True)
    on_cosine, on_norms = (gradient[:, None] for gradient in through_rule)
    on_unit, on_table = tiles.gradients(log_sum, moved.detach(), spread)
    on_unit = shard.sum(on_unit.addcmul_(own, on_cosine))
    through = torch.addcmul(unit, own, cosine[:, None], value=-1).mul_(own_inverse * on_cosine)
    rows = winner * classes + places.clamp(0, classes - 1)
    on_table.view(-1, unit.shape[1]).index_add_(0, rows, through)
    along = torch.linalg.vecdot(on_unit, unit)[:, None]
    on_sorted = on_unit.addcmul_(unit, along, value=-1).mul_(inverse).addcmul_(unit, on_norms)
    on_embeddings = torch.empty_like(on_sorted)
    on_embeddings[order] = on_sorted
    return loss, (on_embeddings.to(embeddings.dtype), on_table.to(table.dtype))


def _nearest_of_own(
    table: Tensor, places: Tensor, present: Tensor | None, unit: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The nearest subcenter (B, E) of each row's own class, at unit length, and zeros where it is not ``present`` (B,).

    With one over its length (B, 1), its number of the k (B,), and the cosine (B,).
    """
    own = table.index_select(1, places.clamp(0, table.shape[1] - 1)).to(unit.dtype)
    inverse = reciprocal(torch.linalg.vector_norm(own, dim=2, keepdim=True))
    if present is not None:
        inverse.mul_(present[:, None])
    own.mul_(inverse)
    cosine, winner = torch.linalg.vecdot(own, unit).max(0)
    row = torch.arange(len(unit), device=unit.device)
    return own[winner, row], inverse[winner, row], winner, cosine
