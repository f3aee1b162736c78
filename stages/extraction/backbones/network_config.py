"""What a run file says of a network of timm or open_clip alike, and its fit to another input size.

A position embedding that belongs to one size is interpolated (bicubic, antialiased, as timm and open_clip do) after the
weights are loaded. A convolutional network takes any size: there only the preprocessing changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from cache.errors import SettingsError
from cache.settings import Settings
from stages.extraction.backbones.pooling import GEM_P, Layer, Pooling, check_pooling
from stages.extraction.backbones.precision import Precision
from stages.extraction.preprocess import PreprocessConfig

if TYPE_CHECKING:
    from torch import nn


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

    ours: ClassVar[tuple[str, ...]]  # keyword arguments of the library that Permafrost sets
    size_keyword: ClassVar[str]  # the keyword argument of the library that ``image_size`` stands for

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


def sized(preprocess: PreprocessConfig, image_size: int | None) -> PreprocessConfig:
    """``preprocess`` for ``image_size``, where one is given."""
    return preprocess if image_size is None else replace(preprocess, size=image_size)


def resize_timm(network: nn.Module, size: int, *, name: str) -> bool:
    """Fit a network of timm to images of ``size`` x ``size``. Whether there was anything to change."""
    own: Any = network
    if not hasattr(own, "set_input_size"):
        return False
    patch = getattr(getattr(own, "patch_embed", None), "patch_size", None)
    if isinstance(patch, tuple):
        _check_multiple(size, patch[0], name)
    own.set_input_size((size, size))
    return True


def resize_open_clip(tower: nn.Module, size: int, *, name: str) -> bool:
    """Fit an image tower of open_clip to images of ``size`` x ``size``. Whether there was anything to change."""
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel

    own: Any = tower
    if isinstance(tower, TimmModel):
        own.image_size = (size, size)
        return resize_timm(tower.trunk, size, name=name)
    convolutional = isinstance(tower, ModifiedResNet)
    step = 32 if convolutional else own.patch_size[0]
    _check_multiple(size, step, name)
    side = size // step
    holder = own.attnpool if convolutional else own
    holder.positional_embedding = _resampled(holder.positional_embedding, side)
    own.image_size = size if convolutional else (size, size)
    if not convolutional:
        own.grid_size = (side, side)
    return True


def _check_multiple(size: int, step: int, name: str) -> None:
    """ValueError where ``size`` is no multiple of ``step``: the libraries would silently drop the border."""
    if size % step:
        near = f"{size // step * step} or {(size // step + 1) * step}" if size > step else str(step)
        raise SettingsError(f"image_size of {name} must be a multiple of its patch of {step}, got {size}: take {near}")


def _resampled(embedding: nn.Parameter, side: int) -> nn.Parameter:
    """A position embedding (1 + N, D), the class token's first, for ``side`` x ``side`` patches."""
    import torch
    from timm.layers.pos_embed import resample_abs_pos_embed

    with torch.no_grad():
        resampled: torch.Tensor = resample_abs_pos_embed(embedding[None], [side, side], num_prefix_tokens=1)
    return torch.nn.Parameter(resampled[0], requires_grad=False)
