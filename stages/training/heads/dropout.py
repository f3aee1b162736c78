"""Dropout from a generator of one's own, several times as fast as drawing a float for every number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_STEPS = 1 << 16  # a share is rounded to a whole multiple of one part of these


def check_shares(shares: Sequence[float], name: str) -> None:
    """ValueError unless each of ``shares`` is in [0, 1)."""
    for share in shares:
        if not 0 <= share < 1:
            raise ValueError(f"{name} is the share of a feature set to zero, in [0, 1), got {share}")


def drop(features: Tensor, shares: Sequence[float], generator: torch.Generator | None) -> Tensor:
    """The mean over ``shares`` of ``features`` (B, D) float32 with that share set to zero and the rest scaled up.

    A linear map of the mean is the mean of the map over several dropouts. Without a generator nothing is dropped. A
    share is a multiple of 2**-16 (nearest); the rest is scaled by what was really kept.
    """
    if generator is None or not any(shares):
        return features
    factors = [_factors(features, share, generator) for share in shares]
    if len(factors) == 1:
        kept, scale = factors[0]
        return (features * kept).mul_(scale)
    mean = torch.zeros_like(features)
    for kept, scale in factors:
        mean.add_(kept, alpha=scale / len(factors))
    return mean.mul_(features)


def _factors(features: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, float]:
    """1 for the numbers that are kept and 0 for the others (B, D), and what the kept ones are multiplied by."""
    dropped = round(share * _STEPS)
    words = torch.empty(-(-features.numel() // 4), dtype=torch.int64, device=features.device)
    words.random_(-(2**63), None, generator=generator)  # 64 random bits, four draws
    draws = words.view(torch.int16)[: features.numel()].view(features.shape)
    kept = torch.empty_like(features)
    torch.ge(draws, dropped - _STEPS // 2, out=kept)  # as numbers: bool takes four times as long, and again to multiply
    return kept, _STEPS / (_STEPS - dropped)
