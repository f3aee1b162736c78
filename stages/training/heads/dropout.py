"""Dropout from a given generator, several times as fast as one random float for every element."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_STEPS = 1 << 16  # a share is rounded to a multiple of 1 / _STEPS


def drop(features: Tensor, shares: Sequence[float], generator: torch.Generator | None) -> Tensor:
    """The mean over ``shares`` of ``features`` (B, D) float32 with that share set to zero and the rest scaled up.

    A linear map of the mean is the mean of the map over several dropouts. Without a generator nothing is dropped. A
    share is a multiple of 2**-16 (nearest); the rest is scaled by the inverse of the rounded remainder.
    """
    if generator is None or not any(shares):
        return features
    factors = [_factors(features, share, generator) for share in shares]
    if len(factors) == 1:
        mask, scale = factors[0]
        return (features * mask).mul_(scale)
    mean = torch.zeros_like(features)
    for mask, scale in factors:
        mean.add_(mask, alpha=scale / len(factors))
    return mean.mul_(features)


def _factors(features: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, float]:
    """A mask (B, D) of ones, and zeros for dropped elements, and the factor of the others.

    64 random bits are four signed 16-bit integers, uniform in [-2**15, 2**15): one is below dropped - 2**15 with
    probability dropped / 2**16.
    """
    dropped = round(share * _STEPS)
    words = torch.empty(-(-features.numel() // 4), dtype=torch.int64, device=features.device)
    words.random_(-(2**63), None, generator=generator)  # four of 16 bits
    draws = words.view(torch.int16)[: features.numel()].view(features.shape)
    mask = torch.empty_like(features)
    torch.ge(draws, dropped - _STEPS // 2, out=mask)  # as floats: a bool mask takes four times as long
    return mask, _STEPS / (_STEPS - dropped)
