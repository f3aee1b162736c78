"""Sharpness-aware minimisation: the gradient of the worst place near the weights (Foret et al., ICLR 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def sharp_gradient(
    value: Callable[[], Tensor],
    forget: Callable[[], None],
    weights: Sequence[nn.Parameter],
    memory: Sequence[Tensor],
    rho: float,
) -> Tensor:
    """The loss at ``weights`` w, after whose call their gradients are those at w + ``rho`` g / |g|, g the one at w.

    |g| is over all of them together. ``value`` computes the loss and its gradients, ``forget`` puts the gradients
    away; random numbers must be the same both times. ``memory``, what the networks learned from the batch without
    gradient, learns from it once. A weight that is not among them, a sampled loss's table, does not move.
    """
    loss = value()
    before, learned = [weight.detach().clone() for weight in weights], [tensor.clone() for tensor in memory]
    with torch.no_grad():
        moved: list[Tensor] = [weight for weight in weights if weight.grad is not None]
        gradients = [weight.grad for weight in moved if weight.grad is not None]
        length = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        factor = float(rho / length) if length > 0 else 0.0
        torch._foreach_add_(moved, gradients, alpha=factor)
    forget()
    value()
    with torch.no_grad():
        torch._foreach_copy_(list(weights), before)
        if memory:
            torch._foreach_copy_(list(memory), learned)
    return loss
