"""The loss of a batch as whole matrices that autograd differentiates: on any device, and the kernel's definition.

``streamed.py`` computes the same on a processor, a tile at a time. A card runs every operation on all of its cores by
itself and has room for (B, C) numbers: 256 rows by 35,000 classes are 36 MB.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from stages.training.losses.angle import lengths_of, normalize
from stages.training.losses.streamed import Softmax
from stages.training.losses.tiles import LOG2E


def plain_loss(
    embeddings: Tensor, weight: Tensor, labels: Tensor, softmax: Softmax, classes: Tensor | None = None
) -> Tensor:
    """The mean loss; arguments and gradients as those of :func:`~stages.training.losses.streamed.streamed_loss`."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    table, places = weight.view(softmax.subcenters, -1, weight.shape[1]), labels
    if classes is not None:
        first = torch.arange(softmax.subcenters, device=classes.device)[:, None] * table.shape[1]
        rows = functional.embedding((first + classes).view(-1), weight, sparse=True)
        table, places = rows.view(softmax.subcenters, -1, weight.shape[1]), torch.searchsorted(classes, labels)
    places, order = torch.sort(places, stable=True)  # the order in which the kernel shows rows to the rule
    sorted_embeddings, labels = embeddings[order].to(dtype), labels[order]
    norms = lengths_of(sorted_embeddings)
    near_one = sorted_embeddings / torch.where(norms > 0, norms, torch.inf).detach()[:, None]  # squares do not overflow
    unit = normalize(near_one)  # (B, E)
    vectors = normalize(table[..., : embeddings.shape[1]].flatten(0, 1).to(dtype)).view(*table.shape[:2], -1)
    shard = softmax.shard
    places, present = shard.places(places)
    at, unit = places.clamp(0, table.shape[1] - 1), shard.entering(unit)
    cosine = (vectors[:, at] * unit).sum(2).max(0).values  # with the nearest subcenter of the own class, (B,)
    cosine = cosine if present is None else shard.total(cosine * present)
    rule, own, weights = softmax.rule, at[:, None], softmax.weights(places, table.shape[1])
    factors = torch.bfloat16 if softmax.precision == "bfloat16" else dtype
    products = unit.to(factors) @ vectors.flatten(0, 1).to(factors).T  # as in a tile
    cosines = products.view(len(unit), *vectors.shape[:2]).max(1).values.to(dtype)  # with the nearest, (B, C)
    if softmax.observe:
        with torch.no_grad():
            rule.observe(cosine.detach(), norms.detach())
            if rule.needs_sums:
                logits = rule.scale(softmax.scale) * rule.others(cosines.detach(), cosine.detach())[0]
                logits = logits if weights is None else logits + weights
                log_sums = _with_own(logits, own, present, -torch.inf).logsumexp(1)
                rule.observe_sums(cosine.detach(), shard.log2_sum(log_sums * LOG2E) / LOG2E)
    scale = rule.scale(softmax.scale)
    moved, penalty = rule.target(cosine, norms, labels), rule.penalty(norms)
    with torch.no_grad():
        value, slope = rule.others(cosines.detach(), moved.detach())
    # The rule gives values and slopes: (c - c.detach()) is 0, and has the gradient of c.
    others = scale * (value + (cosines - cosines.detach()) * (1 if slope is None else slope))
    target, spread = scale * moved, softmax.smoothing / (table.shape[1] if present is None else shard.classes)
    rest = _with_own(others if weights is None else others + weights, own, present, -torch.inf)
    most = shard.largest(rest.detach().amax(1)).clamp(min=torch.finfo(dtype).min)
    mass = shard.total((rest - most[:, None]).exp().sum(1)).clamp(min=torch.finfo(dtype).tiny)  # 0 of one class
    loss = torch.logaddexp(most + mass.log(), target) - (1 - softmax.smoothing + spread) * target
    if softmax.smoothing:
        loss = loss - spread * shard.total(_with_own(others, own, present, 0.0).sum(1))
    return loss.mean() if penalty is None else loss.mean() + penalty


def _with_own(logits: Tensor, own: Tensor, present: Tensor | None, value: float) -> Tensor:
    """``logits`` with ``value`` at the rows' ``own`` classes (B, 1), where these are ``present`` (B,)."""
    if present is None:
        return logits.scatter(1, own, value)
    return logits.scatter(1, own, torch.where(present[:, None], value, logits.gather(1, own)))
