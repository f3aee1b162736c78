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
    cosine = (vectors[:, places] * unit).sum(2).max(0).values  # with the nearest subcenter of the own class, (B,)
    rule, own, weights = softmax.rule, places[:, None], softmax.weights(places, table.shape[1])
    factors = torch.bfloat16 if softmax.precision == "bfloat16" else dtype
    products = unit.to(factors) @ vectors.flatten(0, 1).to(factors).T  # as in a tile
    cosines = products.view(len(unit), *vectors.shape[:2]).max(1).values.to(dtype)  # with the nearest, (B, C)
    if softmax.observe:
        with torch.no_grad():
            rule.observe(cosine.detach(), norms.detach())
            if rule.needs_sums:
                logits = rule.scale(softmax.scale) * rule.others(cosines.detach(), cosine.detach())[0]
                logits = logits if weights is None else logits + weights
                rule.observe_sums(cosine.detach(), logits.scatter(1, own, -torch.inf).logsumexp(1))
    scale = rule.scale(softmax.scale)
    moved, penalty = rule.target(cosine, norms, labels), rule.penalty(norms)
    with torch.no_grad():
        value, slope = rule.others(cosines.detach(), moved.detach())
    # The rule gives values and slopes: (c - c.detach()) is 0, and has the gradient of c.
    others = value + (cosines - cosines.detach()) * (1 if slope is None else slope)
    logits = (scale * others).scatter(1, own, scale * moved[:, None])
    if weights is not None:
        logits = logits + weights
    loss = functional.cross_entropy(logits, places, label_smoothing=softmax.smoothing)
    if weights is not None:  # which the mean of the logits does not count
        loss = loss + softmax.smoothing * weights.mean()
    return loss if penalty is None else loss + penalty
