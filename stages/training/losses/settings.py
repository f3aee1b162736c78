"""What the settings of all margin losses share: schedules, margins by class size, sampled classes. Without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Tag

from cache.errors import SettingsError
from cache.settings import Settings, Within

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stages.training.losses.kernel import MarginSoftmax
    from stages.training.losses.rule import Rule


@dataclass(frozen=True)
class Ramp(Settings):
    """From ``start`` to ``end`` in a straight line over the whole training: ``scale = { start = 16, end = 30 }``.

    Args:
        start: the value at the first step.
        end: the value at the last step.
    """

    start: Annotated[float, Within("(-inf, inf)", "an end of a ramp")]
    end: Annotated[float, Within("(-inf, inf)", "an end of a ramp")]

    @property
    def extremes(self) -> tuple[float, float]:
        return self.start, self.end


_NUMBER, _RAMP = "a number", "a ramp"


def _which(value: Any) -> str:
    return _RAMP if isinstance(value, (dict, Ramp)) else _NUMBER


# The tags stand in pydantic's paths, where those with a space are not keys.
Scheduled: TypeAlias = Annotated[Annotated[float, Tag(_NUMBER)] | Annotated[Ramp, Tag(_RAMP)], Discriminator(_which)]


def value_at(setting: float | Ramp, share: float) -> float:
    """What ``setting`` is after ``share`` of the training, in [0, 1]; a plain number is always itself."""
    if not isinstance(setting, Ramp):
        return setting
    return setting.start + (setting.end - setting.start) * share


@dataclass(frozen=True)
class MarginByClassSize(Settings):
    """A larger margin for small classes: ``margin_rad = { smallest_class = 0.6, largest_class = 0.2 }``.

    Args:
        smallest_class: the margin of the class with the fewest training rows, in the unit of the setting it stands for.
        largest_class: the margin of the class with the most.
        map: between the two, ``cosine`` is half a cosine over the number of rows n (Schall et al., UniFEx), so that
            most classes of a long tail keep the large margin; ``quartic_root`` is a straight line over n^(-1/4) (Ha et
            al., Google landmark recognition 2020), which falls fast for the first rows.
    """

    smallest_class: float
    largest_class: float
    map: Literal["cosine", "quartic_root"] = "cosine"
    kind: Literal["by_class_size"] = "by_class_size"

    @property
    def extremes(self) -> tuple[float, float]:
        return self.smallest_class, self.largest_class


_SCHEDULED, _BY_CLASS_SIZE = "a number or a ramp", "by class size"


def _which_margin(value: Any) -> str:
    ramp = not isinstance(value, dict) or "start" in value or "end" in value
    return _SCHEDULED if ramp and not isinstance(value, MarginByClassSize) else _BY_CLASS_SIZE


MarginSetting: TypeAlias = Annotated[
    Annotated[Scheduled, Tag(_SCHEDULED)] | Annotated[MarginByClassSize, Tag(_BY_CLASS_SIZE)],
    Discriminator(_which_margin),
]


@dataclass(frozen=True)
class SampledConfig(Settings):
    """Compare with the batch's own classes and a ``share`` of all classes, in (0, 1]; all subcenters of each.

    Args:
        share: in (0, 1]; of 34,800 classes a tenth makes a step about six times as fast.
        least: never fewer classes than these, or all there are: with a few hundred, sampling saves little and costs
            accuracy.
        kind: which others. ``random`` ones take no time to find; each counts for one over the probability with which it
            is looked at, so that the loss is that of all classes but for noise. The ``hardest`` are those whose
            nearest subcenter is nearest to any embedding of the batch; finding them takes one matrix product
            of the batch with the whole table.

    Prototypes that a step does not look at are not read, moved or decayed.
    """

    share: Annotated[float, Within("(0, 1]", "the part of the classes that a step looks at")] = 0.1
    least: Annotated[int, Within("[1, inf]", "a number of classes")] = 1000
    kind: Literal["random", "hardest"] = "random"


Scale: TypeAlias = Annotated[Scheduled, Within("(0, inf)", "a factor on the cosines")]
Subcenters: TypeAlias = Annotated[int, Within("[1, inf]", "a number of prototypes a class")]
Precision: TypeAlias = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class MarginSoftmaxConfig(Settings):
    """The settings of every margin-softmax loss; a loss is a subclass with a ``kind``, its margins and its rule.

    Args:
        subcenters: prototypes a class, k; a class is as near as its nearest (Deng et al., Sub-center ArcFace, 2020).
        scale: the factor on the cosines, a number or a ramp over the training.
        label_smoothing: the share of the target that is spread over all classes, in [0, 1).
        sampled: compare with some of the classes only, for tens of thousands and more.
        precision: of the factors of the matrix products, which are summed in float32. With bfloat16 cosines are right
            to three digits, and half of the time is saved where the processor has instructions for it.
    """

    subcenters: Subcenters = 1
    scale: Scale = 30.0
    label_smoothing: Annotated[float, Within("[0, 1)", "the share spread over all classes")] = 0.0
    sampled: SampledConfig | None = None
    precision: Precision = "float32"

    def rule(self, class_sizes: Tensor, generator: torch.Generator) -> Rule:
        """What distinguishes the loss, for classes of ``class_sizes`` (C,) training rows; your own loss has its own."""
        from stages.training.losses.rules import rule_of

        return rule_of(self, class_sizes, generator)

    def build(
        self,
        dim: int,
        class_sizes: Tensor,
        generator: torch.Generator,
        group: torch.distributed.ProcessGroup | None = None,
    ) -> MarginSoftmax:
        """The loss of embeddings (B, ``dim``) for classes of ``class_sizes`` (C,) rows, drawn from ``generator``.

        The processes of a ``group`` share the classes out, and each has the same loss.

        >>> import torch
        >>> from stages.training import ArcFaceConfig
        >>> loss = ArcFaceConfig(margin_rad=0.3).build(4, torch.tensor([5, 5, 5]), torch.Generator().manual_seed(0))
        >>> loss(torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])).shape, loss.prototypes.shape
        (torch.Size([]), torch.Size([1, 3, 4]))
        """
        from stages.training.losses.kernel import MarginSoftmax

        if group is not None and self.sampled is not None:
            raise SettingsError("several processes share all classes out: leave loss.sampled out, or train in one")
        return MarginSoftmax(dim, len(class_sizes), self.rule(class_sizes, generator), self, generator, group)
