"""What a run file says of a network of timm or open_clip alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from cache.errors import SettingsError
from cache.settings import Settings
from stages.extraction.backbones.pooling import GEM_P, Layer, Pooling, check_pooling
from stages.extraction.backbones.precision import Precision
from stages.extraction.preprocess import PreprocessConfig


@dataclass(frozen=True)
class NetworkConfig(Settings):
    """A network of a library, by its name there, with weights from one of ``pretrained`` and ``weights``.

    Attributes:
        name: the library's name of the architecture.
        pretrained: a tag of the library's. Downloaded once.
        weights: a ``.safetensors`` file or a PyTorch state dict in the library's own names; ``"random"`` draws them
            from ``seed``, to measure speed or to test.
        pooling: one or several of ``cls``, ``mean``, ``cls+mean``, ``gem``, ``max``; see
            :mod:`~stages.extraction.backbones.pooling`. Left out, the library's own. A list gives a backbone for each,
            of one forward.
        layer: of the pooling: the index of a block, from the end where negative, whose output is taken as it is. Left
            out, the end of the network after its final norm, which is ``"neck"`` in SAM's.
        gem_p: the exponent of ``gem``.
        image_size: another input size than the network's own; its position embedding is interpolated.
        kwargs: keyword arguments of the library for the model.
        preprocess: what to change of the preprocessing that the library lists for the weights.
        precision: of the forward: ``float32``, ``tf32`` (the same as float32 on a CPU) or ``bfloat16``; ``auto`` is
            float32 on a CPU and tf32 on a card.
        compiled: run through ``torch.compile``, which rounds differently and so has a store of its own.
        seed: of random weights.
    """

    ours: ClassVar[tuple[str, ...]]
    """Keyword arguments of the library that Permafrost sets."""
    size_keyword: ClassVar[str]
    """The keyword argument of the library that ``image_size`` stands for."""

    name: str
    pretrained: str | bool | None = None
    weights: str | None = None
    pooling: Pooling = None
    layer: Layer = None
    gem_p: float = GEM_P
    image_size: int | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    preprocess: PreprocessConfig = PreprocessConfig()
    precision: Precision = "auto"
    compiled: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if bool(self.pretrained) == bool(self.weights):
            given = f"pretrained = {self.pretrained!r} and weights = {self.weights!r}" if self.weights else "neither"
            raise SettingsError(
                f'{self.name} needs one source of weights, pretrained = "TAG", weights = "FILE" or '
                f'weights = "random"; got {given}'
            )
        if reserved := sorted(set(self.ours) & set(self.kwargs)):
            raise SettingsError(f"kwargs of {self.name} must leave {', '.join(reserved)} alone: Permafrost sets it")
        check_pooling(self.name, self.pooling, self.layer, self.gem_p)
        if self.image_size is None:
            return
        if self.image_size < 1:
            raise SettingsError(f"image_size is in pixels and must be at least 1, got {self.image_size}")
        if self.preprocess.size not in (None, self.image_size):
            raise SettingsError(
                f"image_size of {self.name} is {self.image_size} and preprocess.size {self.preprocess.size}: "
                "leave preprocess.size out"
            )
        if self.size_keyword in self.kwargs:
            raise SettingsError(
                f"image_size of {self.name} is given, and kwargs.{self.size_keyword} too: leave one out"
            )
