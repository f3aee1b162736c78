"""What distinguishes one margin loss from another. The kernel does the rest, and knows none of them by name."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from cache.errors import SettingsError
from stages.training.losses.settings import MarginByClassSize, MarginSetting, value_at


class RandomState(nn.Module):
    """A ``generator`` on the CPU, seeded by one draw from another, whose state is in ``state_dict``."""

    def __init__(self, seeded_by: torch.Generator) -> None:
        super().__init__()
        seed = torch.empty((), dtype=torch.int64).random_(generator=seeded_by)
        self.generator = torch.Generator().manual_seed(int(seed))

    def get_extra_state(self) -> Tensor:
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state.cpu())


class Rule(nn.Module):
    """Moves the cosine of the target, and perhaps those of the other classes; this one moves nothing (NormFace).

    In a step of training the kernel calls, in this order: :meth:`observe`, :meth:`observe_sums` where ``needs_sums``,
    :meth:`scale`, :meth:`target` once, :meth:`others` once or more for every block of classes, :meth:`penalty`. In
    evaluation the two that observe are left out. What a rule has learned is in its buffers, and random numbers come
    from a :class:`RandomState`, so that ``state_dict`` has both.

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

        ``cosine`` (B,) is the target's, and ``log_sums`` (B,) the logarithm of the sum over the other classes of
        exp(scale * cosine), at the scale so far.
        """

    def scale(self, scale: float) -> float | Tensor:
        """The factor on the cosines, a number or a tensor (), where the settings have ``scale``."""
        return scale

    def target(self, cosine: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        """The target's ``cosine`` (B,) as the margin moves it, in units of the cosine; autograd differentiates it.

        ``norms`` (B,) are the embeddings' lengths; ``labels`` (B,) choose margins that differ by class. Its slope must
        be finite on the whole of [-1, 1], also where a cosine is a rounding error outside.
        """
        del norms, labels
        return cosine

    def others(self, cosine: Tensor, own: Tensor) -> tuple[Tensor, Tensor | None]:
        """What becomes of the ``cosine`` (B, c) of a block of classes, and the derivative by it (None: one everywhere).

        Elementwise, under no_grad. The block may hold the target too; its value there is not used. ``own`` (B,) is the
        moved target, a constant here. Worker threads call this at the same time: results are new tensors, or
        ``cosine`` itself, and nothing is written.
        """
        del own
        return cosine, None

    def penalty(self, norms: Tensor) -> Tensor | None:
        """A scalar added to the loss, differentiable by the embeddings' ``norms`` (B,); None for nothing."""
        del norms
        return None


class MarginRule(Rule):
    """A rule with a margin, whose ``class_sizes`` (C,) are the training rows of each class, in label order."""

    by_class: Tensor | None

    def __init__(self, setting: MarginSetting, class_sizes: Tensor) -> None:
        super().__init__()
        self.setting = setting
        by_class = margins_of(setting, class_sizes) if isinstance(setting, MarginByClassSize) else None
        self.register_buffer("by_class", by_class, persistent=False)  # it follows from the configuration
        self.at(0.0)

    def at(self, share: float) -> None:
        self.margin = 0.0 if isinstance(self.setting, MarginByClassSize) else value_at(self.setting, share)

    def margin_of(self, labels: Tensor) -> float | Tensor:
        """The margin of rows with ``labels``: one number, or a tensor of their shape."""
        return self.margin if self.by_class is None else self.by_class[labels]


def margins_of(setting: MarginByClassSize, class_sizes: Tensor) -> Tensor:
    """The margins (C,), float32, of classes of ``class_sizes`` (C,) rows; the middle of the two if all are equal.

    >>> margins_of(MarginByClassSize(smallest_class=0.6, largest_class=0.2), torch.tensor([3, 10, 17]))
    tensor([0.6000, 0.4000, 0.2000])
    """
    if not (class_sizes > 0).all():
        empty = int((class_sizes <= 0).nonzero()[0])
        raise SettingsError(
            f"a margin by class size needs at least one row in each class, class {empty} has "
            f"{int(class_sizes[empty])}; leave it out, or give one margin for all"
        )
    sizes = class_sizes.double()
    place = sizes.neg() if setting.map == "cosine" else sizes.pow(-0.25)  # the smallest class comes out highest
    spread = place.max() - place.min()
    smallness = (place - place.min()) / spread if spread > 0 else torch.full_like(place, 0.5)
    if setting.map == "cosine":
        smallness = (1 - torch.cos(math.pi * smallness)) / 2
    return (setting.largest_class + (setting.smallest_class - setting.largest_class) * smallness).float()
