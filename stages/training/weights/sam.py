"""Sharpness-aware minimization: the gradient at the worst weights nearby (Foret et al., ICLR 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def sam_gradient(
    value: Callable[[], Tensor],
    clear: Callable[[], None],
    weights: Sequence[nn.Parameter],
    memory: Sequence[Tensor],
    rho: float,
) -> Tensor:
    """The loss at ``weights`` w; afterwards their gradients are those at w + ``rho`` g / |g|, where g is that at w.

    |g| is the norm over all weights together. A weight that is not among them, a sampled loss's table, is not moved.

    Args:
        value: computes the loss and its gradients; its random numbers must be the same both times.
        clear: drops the gradients.
        weights: the dense weights of network and loss.
        memory: buffers that the forward pass updates, such as running means: they keep the first update alone.
        rho: the length of the step to the worst weights.
    """
    loss = value()
    before, updated = [weight.detach().clone() for weight in weights], [tensor.clone() for tensor in memory]
    with torch.no_grad():
        moved: list[Tensor] = [weight for weight in weights if weight.grad is not None]
        gradients = [weight.grad for weight in moved if weight.grad is not None]
        length = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        factor = float(rho / length) if length > 0 else 0.0
        torch._foreach_add_(moved, gradients, alpha=factor)
    clear()
    value()
    with torch.no_grad():
        torch._foreach_copy_(list(weights), before)
        if memory:
            torch._foreach_copy_(list(memory), updated)
    return loss
