"""Losses of attributes: weights by class size, an asymmetric binary loss, contrast by what labels share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from stages.training.losses.angle import normalize
from stages.training.multilabel.kinds import AsymmetricConfig, AttributeContrastConfig

_LEAST = 1e-8


def balanced_weights(counts: Tensor, beta: float) -> Tensor:
    """The weight (C,) of each value by its ``counts`` (C,) of records; their mean is 1."""
    weights = (1 - beta) / (1 - beta ** counts.clamp(min=1).double())
    return (weights / weights.mean()).float()


def binary(logits: Tensor, there: Tensor, config: AsymmetricConfig | None) -> Tensor:
    """The loss (n, C) of values that are ``there``, 1, or not, 0: asymmetric, or without ``config`` cross entropy."""
    if config is None:
        return functional.binary_cross_entropy_with_logits(logits, there, reduction="none")
    probability = logits.sigmoid()
    # Exponents below 1 have an infinite slope at 0: no power is taken of less than _LEAST.
    absent = (probability - config.clip).clamp(min=_LEAST)
    positive = (1 - probability).clamp(min=_LEAST) ** config.positive * probability.clamp(min=_LEAST).log()
    negative = absent**config.negative * (1 - absent).clamp(min=_LEAST).log()
    return -(there * positive + (1 - there) * negative)


def overlap(targets: Sequence[Tensor]) -> Tensor:
    """The share (B, B) of the attributes of row i that row j has too; missing values of i do not count.

    ``targets`` are numbers (B,), -1 where missing, or 0 and 1 (B, C), NaN where missing, of which the share of the
    values in common counts.
    """
    shared, known = torch.zeros(()), torch.zeros(())
    for target in targets:
        if target.ndim == 1:
            there = target >= 0
            same = (target[:, None] == target).float()
        else:
            there = ~target[:, 0].isnan()
            values = target.nan_to_num()
            common = values @ values.T
            sizes = values.sum(1)
            same = common / (sizes[:, None] + sizes - common).clamp(min=1)
        shared = shared + same * there[:, None] * there
        known = known + there[:, None]
    return shared / known.clamp(min=1)


def contrast(hidden: Tensor, shared: Tensor, config: AttributeContrastConfig) -> Tensor:
    """The mean contrastive loss of ``hidden`` (B, E), of any length, whose labels overlap by ``shared`` (B, B).

    A row that has nothing in common with any other of its batch has no part in the mean; of a batch of such rows the
    loss is 0.
    """
    others = ~torch.eye(len(hidden), dtype=torch.bool, device=hidden.device)
    weights = shared**config.power * others
    unit = normalize(hidden)
    similarity = (unit @ unit.T / config.temperature).masked_fill(~others, -torch.inf)
    losses = -functional.log_softmax(similarity, 1).masked_fill(~others, 0)
    total = weights.sum(1)
    rows = (weights * losses).sum(1) / total.clamp(min=_LEAST)
    counted = total > _LEAST
    return (rows * counted).sum() / counted.sum().clamp(min=1)
