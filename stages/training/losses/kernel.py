"""What every margin-softmax loss shares: prototypes, cosines, and a cross entropy whose target has been moved.

::

    embeddings (B, E) --unit length--> cosines (B, C*k) --best subcenter--> (B, C) --rule--> scalar

On a processor nothing of the size B x C is ever in memory (``streamed.py``, ``tiles.py``); any other device computes
the same with whole matrices (``plain.py``). A loss is this kernel and a :class:`~stages.training.losses.rule.Rule`. Its
configuration inherits the settings that all of them have, adds its own, and makes the rule::

    @dataclass(frozen=True)
    class CosFaceConfig(MarginSoftmaxConfig):
        kind: Literal["cosface"] = "cosface"
        margin_cos: MarginSetting = 0.35

        def rule(self, class_sizes, generator):
            return Subtract(self.margin_cos, class_sizes)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from cache.errors import SettingsError
from stages.training.losses.plain import plain_loss
from stages.training.losses.rule import Rule
from stages.training.losses.sampled import ClassSampler, SampledConfig
from stages.training.losses.schedule import Scheduled, ends, value_at
from stages.training.losses.streamed import Softmax, streamed_loss
from stages.training.losses.tiles import Precision


@dataclass(frozen=True)
class MarginSoftmaxConfig:
    """The settings of every margin-softmax loss; a loss is a subclass with a ``kind``, its margins and its rule.

    Args:
        subcenters: prototypes a class, k; a class is as near as its nearest (Deng et al., Sub-center ArcFace, 2020).
        scale: the factor on the cosines, a number or a ramp over the training.
        label_smoothing: the share of the target that is spread over all classes, in [0, 1).
        sampled: compare with some of the classes only, for tens of thousands and more.
        precision: of the factors of the matrix products, which are summed in float32. With bfloat16 cosines are right
            to three digits, and half of the time is saved where the processor has instructions for it.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    subcenters: int = field(default=1, kw_only=True)
    scale: Scheduled = field(default=30.0, kw_only=True)
    label_smoothing: float = field(default=0.0, kw_only=True)
    sampled: SampledConfig | None = field(default=None, kw_only=True)
    precision: Precision = field(default="float32", kw_only=True)

    def __post_init__(self) -> None:
        if self.subcenters < 1:
            raise SettingsError(f"subcenters is a number of prototypes a class, at least 1, got {self.subcenters}")
        if not all(0 < scale < math.inf for scale in ends(self.scale)):
            raise SettingsError(f"scale is a factor on the cosines, above 0 and finite, got {self.scale}")
        if not 0 <= self.label_smoothing < 1:
            raise SettingsError(
                f"label_smoothing is the share spread over all classes, in [0, 1), got {self.label_smoothing}"
            )
        if self.precision not in ("float32", "bfloat16"):
            raise SettingsError(f"precision is float32 or bfloat16, got {self.precision!r}")

    def rule(self, class_sizes: Tensor, generator: torch.Generator) -> Rule:
        """What distinguishes the loss; for classes of ``class_sizes`` (C,) training rows."""
        raise NotImplementedError(f"{type(self).__name__} has no rule: a loss is a subclass that gives one")

    def build(self, dim: int, class_sizes: Tensor, generator: torch.Generator) -> MarginSoftmax:
        """The loss of embeddings (B, ``dim``); prototypes and what else is random are drawn from ``generator``.

        ``class_sizes`` (C,) int64 are the training rows of each class, for margins that follow from them.

        >>> from stages.training.losses import ArcFaceConfig
        >>> loss = ArcFaceConfig(margin_rad=0.3).build(4, torch.tensor([5, 5, 5]), torch.Generator().manual_seed(0))
        >>> loss(torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])).shape, loss.prototypes.shape
        (torch.Size([]), torch.Size([1, 3, 4]))
        """
        return MarginSoftmax(dim, len(class_sizes), self.rule(class_sizes, generator), self, generator)


class MarginSoftmax(nn.Module):
    """Cosine softmax over C classes of k ``subcenters`` each, the target's cosine moved by ``rule``.

    The prototype of subcenter j of class c is row ``j * classes + c`` of ``weight`` (C*k, E). A training loop calls
    :meth:`at` before each step. All that a resumed run needs is in ``state_dict``.
    """

    def __init__(
        self, dim: int, classes: int, rule: Rule, config: MarginSoftmaxConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.classes = classes
        self.config = config
        self.subcenters = config.subcenters
        self.rule = rule
        self.weight = nn.Parameter(torch.empty(classes * config.subcenters, dim))
        nn.init.xavier_uniform_(self.weight, generator=generator)
        self.sampler = None
        if config.sampled is not None:
            self.sampler = ClassSampler(config.sampled, classes, config.subcenters, generator)
        self.at(0.0)

    @property
    def sparse(self) -> bool:
        """Whether the gradient of ``weight`` is a sparse tensor in training: only the rows that a step looked at."""
        return self.sampler is not None

    @property
    def prototypes(self) -> Tensor:
        """``weight`` as vectors (k, C, E), a view."""
        return self.weight.view(self.subcenters, self.classes, -1)

    def at(self, share: float) -> None:
        """Set the schedules to where they stand after ``share`` of the training, in [0, 1]."""
        self.scale = value_at(self.config.scale, share)
        self.rule.at(share)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of ``embeddings`` (B, E), of any length, with ``labels`` (B,) in [0, C): a scalar.

        Embeddings of fewer than E dimensions are compared with the first ones of each prototype (nested sizes).

        In training a sampled loss sees some of the classes, and the gradient of its ``weight`` is a sparse tensor; in
        evaluation it sees all of them, as any other.
        """
        softmax = Softmax(
            rule=self.rule,
            scale=self.scale,
            smoothing=self.config.label_smoothing,
            subcenters=self.subcenters,
            precision=self.config.precision,
            learn=torch.is_grad_enabled(),
            observe=self.training,
        )
        classes = None
        if self.sampler is not None and self.training:
            classes = self.sampler(labels, embeddings, self.weight[:, : embeddings.shape[1]])
        loss_of = streamed_loss if self.weight.device.type == "cpu" else plain_loss
        return loss_of(embeddings, self.weight, labels, softmax, classes)
