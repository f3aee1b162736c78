"""Another input size than the one that a network was trained at.

A position embedding that belongs to one size is interpolated (bicubic, antialiased, as timm and open_clip do) after the
weights are loaded. A convolutional network takes any size: there only the preprocessing changes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cache.errors import SettingsError
from stages.extraction.preprocess import PreprocessConfig

if TYPE_CHECKING:
    from torch import nn


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
