"""What distinguishes one margin loss from another. The kernel does the rest, and knows none of them by name."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn


class Rule(nn.Module):
    """Moves the cosine of the target, and perhaps those of the other classes; this one moves nothing (NormFace).

    In a step of training the kernel calls, in this order: :meth:`observe`, :meth:`observe_sums` where ``needs_sums``,
    :meth:`scale`, :meth:`target` once, :meth:`others` once or more for every block of classes, :meth:`penalty`. In
    evaluation the two that observe are left out. What a rule has learned is in its buffers, so that ``state_dict`` has
    it; random numbers come from a :class:`~stages.training.losses.random_state.RandomState`, for the same reason.

    >>> import torch
    >>> class HalfMargin(Rule):
    ...     def target(self, cosine, norms, labels):
    ...         return cosine - 0.5
    >>> HalfMargin().target(torch.tensor([0.9]), torch.ones(1), torch.zeros(1))
    tensor([0.4000])

    Cosines and norms are float32, or float64 where the embeddings are, also when the weights are bfloat16.
    """

    needs_sums: ClassVar[bool] = False

    def at(self, share: float) -> None:
        """Set the schedules to where they stand after ``share`` of the training, in [0, 1]."""

    def observe(self, cosine: Tensor, norms: Tensor) -> None:
        """Learn from a batch, without gradient: the target's ``cosine`` (B,) and the embeddings' ``norms`` (B,)."""

    def observe_sums(self, cosine: Tensor, log_sums: Tensor) -> None:
        """Learn from the other classes, without gradient; only where ``needs_sums``: it takes a pass over them.

        Args:
            cosine: the target's (B,).
            log_sums: (B,), the logarithm of the sum over the other classes of exp(scale * cosine), at the scale so
                far. The mean over the rows of those sums is ``log_sums.logsumexp(0).exp() / B``.
        """

    def scale(self, scale: float) -> float | Tensor:
        """The factor on the cosines, a number or a tensor (), where the configuration asks for ``scale``."""
        return scale

    def target(self, cosine: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        """The target's ``cosine`` (B,) as the margin moves it, in units of the cosine; autograd differentiates it.

        ``norms`` (B,) are the embeddings' lengths; ``labels`` (B,) choose margins that differ by class. It must
        broadcast: with a margin of shape (H, 1) and a cosine (H, B) it moves the targets of H heads at once. Its slope
        must be finite on the whole of [-1, 1], also where a cosine is a rounding error outside.
        """
        del norms, labels
        return cosine

    def others(self, cosine: Tensor, own: Tensor) -> tuple[Tensor, Tensor | None]:
        """What becomes of the ``cosine`` (B, c) of a block of classes, and the derivative by it (None: one everywhere).

        Elementwise, under no_grad, and without writing into ``cosine``. The block may hold the target too; its value
        there is not used. ``own`` (B,) is the moved target, a constant to this function. Worker threads call this at
        the same time, each with blocks of its own: results are new tensors, or ``cosine`` itself, and no state is
        written.
        """
        del own
        return cosine, None

    def penalty(self, norms: Tensor) -> Tensor | None:
        """A scalar added to the loss, differentiable by the embeddings' ``norms`` (B,); None for nothing."""
        del norms
        return None
