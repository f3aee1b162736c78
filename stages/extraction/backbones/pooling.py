"""From a network's tokens or map to one vector an image: the class token, the mean, the generalized mean, the maximum.

==========  =====================================================================  ==========
pooling     value                                                                  width
==========  =====================================================================  ==========
cls         the class token                                                        D
mean        mean of the patch tokens, or of the map                                D
cls+mean    the two, one after the other                                           2 D
gem         (mean of max(x, 1e-6) ** gem_p) ** (1 / gem_p), channel by channel     D
max         the largest value, channel by channel                                  D
==========  =====================================================================  ==========

Patch tokens are neither the class token nor registers. GeM: Radenovic, Tolias and Chum, *Fine-tuning CNN Image
Retrieval with No Human Annotation*, TPAMI 2019. Tokens are taken out after the last block, or after any other. After
the last the final norm is applied, wherever the network has it: on the tokens (most transformers), or on the pooled
vector (``fc_norm`` in timm, the head's norm of ConvNeXt). The output of an earlier block is taken as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from cache.errors import SettingsError
from cache.fingerprint import JSON

if TYPE_CHECKING:
    import torch

Compute: TypeAlias = "Callable[[torch.Tensor], Sequence[torch.Tensor]]"
"""From normalised images (B, 3, S, S) to one output or several, each (B, D)."""

POOLINGS = ("cls", "mean", "cls+mean", "gem", "max")
GEM_P = 3.0
_SMALLEST = 1e-6  # a power of a negative number has no root

Pooling: TypeAlias = str | tuple[str, ...] | None
Layer: TypeAlias = int | Literal["neck"] | None


class Tokens(NamedTuple):
    """A network's output before pooling: the class token (B, D), where there is one, and the patches (B, N, D)."""

    cls: torch.Tensor | None
    patches: torch.Tensor


class Tap(NamedTuple):
    """Where tokens are taken out of a network.

    ``read`` maps normalised images (B, 3, S, S) to tokens. ``norm`` is the final norm behind the network's pooling, (B,
    D) to (B, D). ``layer`` is the block's index from the front, None the end of the network.
    """

    read: Callable[[torch.Tensor], Tokens]
    norm: Callable[[torch.Tensor], torch.Tensor]
    has_cls: bool
    layer: int | None


class Output(NamedTuple):
    """One feature of a network: its name, its part of the identity, and the module that gives it, where not all do."""

    name: str
    identity: dict[str, JSON]
    module: torch.nn.Module | None = None


def poolings(pooling: Pooling) -> tuple[str, ...]:
    """The poolings that a config names, as a tuple; empty for the library's own."""
    if pooling is None:
        return ()
    return (pooling,) if isinstance(pooling, str) else tuple(pooling)


def check_pooling(name: str, pooling: Pooling, layer: Layer, gem_p: float) -> None:
    """ValueError where the three contradict each other for any network."""
    kinds = poolings(pooling)
    if pooling is not None and not kinds:
        raise SettingsError(
            f"pooling of {name} is an empty list: name at least one, or leave it out for the library's own"
        )
    if unknown := [kind for kind in kinds if kind not in POOLINGS]:
        raise SettingsError(
            f"pooling must be of {', '.join(POOLINGS)}, got {unknown[0]!r}; left out, the library's own"
        )
    if len(set(kinds)) < len(kinds):
        raise SettingsError(f"pooling of {name} names {max(kinds, key=kinds.count)!r} twice")
    if layer is not None and not kinds:
        raise SettingsError(
            f"layer = {layer!r} of {name} needs a pooling, one or several of {', '.join(POOLINGS)}: "
            "the library's own belongs to the last layer"
        )
    if isinstance(layer, str) and layer != "neck":
        raise SettingsError(f"layer must be the index of a block or 'neck', got {layer!r}")
    if not gem_p > 0:
        raise SettingsError(f"gem_p must be above 0, got {gem_p}")
    if gem_p != GEM_P and "gem" not in kinds:
        raise SettingsError(f"gem_p = {gem_p} is for pooling = 'gem' alone, got {pooling!r}")


def check_blocks(name: str, blocks: Sequence[int], pooling: Pooling) -> None:
    """ValueError where ``blocks``, which are added to the library's own pooling, come with another."""
    if blocks and pooling is not None:
        raise SettingsError(
            f"blocks = {list(blocks)} of {name} are added to the library's own pooling: leave pooling out, or name one "
            "of them as layer"
        )


def pool_outputs(name: str, tap: Tap, pooling: Pooling, gem_p: float) -> tuple[list[Output], Compute]:
    """The outputs that ``pooling`` names, and the function from images (B, 3, S, S) to their values, each (B, D)."""
    kinds = poolings(pooling)
    if not tap.has_cls and (asking := [kind for kind in kinds if "cls" in kind]):
        raise SettingsError(
            f"{name} has no class token for pooling = {asking[0]!r}: it has patches, for mean, gem and max, "
            "and the library's own pooling, which you get by leaving pooling out"
        )

    def pooled(images: torch.Tensor) -> list[torch.Tensor]:
        tokens = tap.read(images)
        return [_pooled(kind, tokens, tap.norm, gem_p) for kind in kinds]

    return [output(kind, tap.layer, gem_p) for kind in kinds], pooled


def output(kind: str, layer: int | None, gem_p: float = GEM_P) -> Output:
    """Name and identity of the pooling ``kind`` of a block, or of the end of the network."""
    identity: dict[str, JSON] = {"output": kind}
    name = kind
    if kind == "gem":
        identity["gem_p"] = float(gem_p)
        name = f"gem{gem_p:g}"
    if layer is not None:
        identity["layer"] = layer
        name = f"block{layer}-{name}"
    return Output(name, identity)


def _pooled(kind: str, tokens: Tokens, norm: Callable[[torch.Tensor], torch.Tensor], gem_p: float) -> torch.Tensor:
    import torch

    patches = tokens.patches.float()  # sums over many patches want more digits than bfloat16 has
    values: Sequence[torch.Tensor]
    match kind:
        case "mean":
            values = [patches.mean(1)]
        case "max":
            values = [patches.amax(1)]
        case "gem":
            values = [patches.clamp(min=_SMALLEST).pow(gem_p).mean(1).pow(1 / gem_p)]
        case _:
            assert tokens.cls is not None
            values = [tokens.cls.float(), patches.mean(1)][: 1 + (kind == "cls+mean")]
    return torch.cat([norm(value) for value in values], 1)


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
