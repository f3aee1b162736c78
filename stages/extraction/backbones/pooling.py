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
Retrieval with No Human Annotation*, TPAMI 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

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
