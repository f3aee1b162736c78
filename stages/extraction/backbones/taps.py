"""Where tokens are taken out of the networks of timm and open_clip: after the last block, or after any other.

After the last block the final norm is applied, wherever the network has it: on the tokens (most transformers), or on
the pooled vector (``fc_norm`` in timm, the head's norm of ConvNeXt). The output of an earlier block is taken as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cache.errors import SettingsError
from stages.extraction.backbones.pooling import Compute, Layer, Output, Tap, Tokens, output

if TYPE_CHECKING:
    import torch
    from torch import nn


def tap_timm(network: nn.Module, layer: Layer, *, name: str) -> Tap:
    """The tap of a network of timm.

    Blocks are counted as its ``forward_intermediates`` counts them: of a convolutional network the stages, for some of
    which the stem is stage 0. ValueError for a layer that is not there, and where timm does not tell class token and
    patches apart.
    """
    own: Any = network
    has_cls = getattr(own, "cls_token", None) is not None
    if has_cls and not hasattr(own, "num_prefix_tokens"):
        raise SettingsError(f"{name}: timm does not say which of its tokens are patches; leave pooling and layer out")
    layer = _checked(layer, len(getattr(own, "feature_info", None) or ()), hasattr(own, "neck"), name)
    if layer is None:
        return Tap(_last_of_timm(own, name), _late_norm(own), has_cls, None)
    if not hasattr(own, "forward_intermediates"):
        raise SettingsError(f"{name}: timm gives its last layer only; leave layer out")
    return Tap(_block_of_timm(own, layer), _as_it_is, has_cls, layer)


def own_and_blocks(network: nn.Module, blocks: Sequence[int], *, name: str) -> tuple[list[Output], Compute]:
    """A timm network's own pooled output and the mean of each of ``blocks``, all of one forward."""
    own: Any = network
    if not hasattr(own, "forward_intermediates"):
        raise SettingsError(f"{name}: timm gives its last layer only; leave blocks out")
    count = len(getattr(own, "feature_info", None) or ())
    indices = [index for block in blocks if (index := _checked(block, count, False, name)) is not None]
    if len(set(indices)) < len(indices):
        raise SettingsError(f"blocks of {name} name block {max(indices, key=indices.count)} twice")

    def compute(images: torch.Tensor) -> list[torch.Tensor]:
        end, maps = own.forward_intermediates(images, indices=indices, output_fmt="NCHW")
        in_order = dict(zip(sorted(indices), maps, strict=True))
        return [own.forward_head(end), *(in_order[index].float().mean((2, 3)) for index in indices)]

    return [Output("", {"output": "pooled"}), *(output("mean", index) for index in indices)], compute


def tap_open_clip(tower: nn.Module, layer: Layer, *, name: str) -> Tap:
    """The tap of an image tower of open_clip. CoCa's norm belongs to its own pooling: the last tokens have none."""
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel

    if isinstance(tower, TimmModel):
        return tap_timm(tower.trunk, layer, name=name)
    own: Any = tower
    if isinstance(tower, ModifiedResNet):
        layer = _checked(layer, 5, False, name)  # the stem is stage 0

        def read_map(images: torch.Tensor) -> Tokens:
            index = 4 if layer is None else layer
            given = own.forward_intermediates(images, indices=[index], stop_early=True, intermediates_only=True)
            return Tokens(None, _flat(given["image_intermediates"][0]))

        return Tap(read_map, _as_it_is, False, layer)
    depth = len(own.transformer.resblocks)
    layer = _checked(layer, depth, False, name)
    ends = layer is None and own.attn_pool is None  # and so has the final norm

    def read(images: torch.Tensor) -> Tokens:
        given = own.forward_intermediates(
            images,
            indices=[depth - 1 if layer is None else layer],
            stop_early=True,
            normalize_intermediates=ends and not own.final_ln_after_pool,
            intermediates_only=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        return Tokens(given["image_intermediates_prefix"][0][:, 0], given["image_intermediates"][0])

    return Tap(read, own.ln_post if ends and own.final_ln_after_pool else _as_it_is, True, layer)


def _checked(layer: Layer, blocks: int, has_neck: bool, name: str) -> int | None:
    """``layer`` counted from the front, or None for the end of the network."""
    if layer == "neck":
        if not has_neck:
            raise SettingsError(f"{name} has no neck: layer is the index of a block, or left out for the end")
        return None
    if layer is None:
        return None
    if not -blocks <= layer < blocks:
        raise SettingsError(f"layer of {name} must be in [{-blocks}, {blocks}), for its {blocks} blocks, got {layer}")
    return layer % blocks


def _last_of_timm(network: Any, name: str) -> Callable[[torch.Tensor], Tokens]:
    prefix: int = getattr(network, "num_prefix_tokens", 0)

    def read(images: torch.Tensor) -> Tokens:
        given: torch.Tensor = network.forward_features(images)
        if given.ndim == 3:
            return Tokens(given[:, 0] if prefix else None, given[:, prefix:])
        if given.ndim == 4:
            return Tokens(None, given.flatten(1, 2) if _channels_last(network, given) else _flat(given))
        raise SettingsError(f"{name} gives {tuple(given.shape)}, neither tokens nor a map; leave pooling and layer out")

    return read


def _block_of_timm(network: Any, layer: int) -> Callable[[torch.Tensor], Tokens]:
    options: dict[str, Any] = {"indices": [layer], "intermediates_only": True, "stop_early": True, "output_fmt": "NCHW"}
    if "return_prefix_tokens" in inspect.signature(network.forward_intermediates).parameters:
        options["return_prefix_tokens"] = True

    def read(images: torch.Tensor) -> Tokens:
        (given,) = network.forward_intermediates(images, **options)
        if isinstance(given, tuple):
            return Tokens(given[1][:, 0], _flat(given[0]))
        return Tokens(None, _flat(given))

    return read


def _late_norm(network: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """The norm between a timm network's pooling and its classifier, for vectors (B, D)."""
    import torch

    fc_norm = getattr(network, "fc_norm", None)
    if isinstance(fc_norm, torch.nn.Module):
        return fc_norm
    norm = getattr(getattr(network, "head", None), "norm", None)
    if not isinstance(norm, torch.nn.Module):
        return _as_it_is
    if "2d" not in type(norm).__name__:
        return norm
    return lambda pooled: norm(pooled[:, :, None, None]).flatten(1)


def _channels_last(network: Any, given: torch.Tensor) -> bool:
    wide: int = network.num_features
    first, last = given.shape[1] == wide, given.shape[-1] == wide
    return last and (not first or getattr(network, "output_fmt", "NCHW") == "NHWC")


def _flat(given: torch.Tensor) -> torch.Tensor:
    return given.flatten(2).transpose(1, 2)


def _as_it_is(pooled: torch.Tensor) -> torch.Tensor:
    return pooled
