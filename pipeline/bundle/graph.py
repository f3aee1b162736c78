"""What an embedder computes of the pixels of one image, as modules that PyTorch can write to one file.

::

    image (3, H, W) uint8 --Pixels--> views (3, S, S) uint8 --Vector--> (E,) float32 of unit length
                            resize, crop                      networks, rounding, fusion, head

Bytes are resized as a store resizes them, by the same code of PyTorch. ONNX resizes numbers alone: there in two steps,
width and then height, each rounded to bytes as PyTorch does inside. A resize of numbers in one step is farther away
from the store (a cosine of .998). :mod:`pipeline.bundle.graph_files` writes the files.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import reduce

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]
from torch.nn.functional import interpolate

from cache.errors import SettingsError
from stages.extraction import Backbone, Embedder, Preprocess
from stages.extraction.backbones.frozen import Frozen, frozen_of
from stages.extraction.preprocess import LARGEST
from stages.training import Head
from stages.training.heads.networks import Experts, HeadNetwork
from stages.training.losses.angle import normalize
from stages.training.multilabel.posterior import PosteriorNetwork

_TINY = float(np.finfo(np.float32).tiny)
_NUMPY_BLOCK = 128  # numbers that NumPy adds without halving them first
_GRID = 2.0**26  # unit_length rounds to whole multiples of its inverse


class Square(nn.Module):
    """The plain view (3, S, S) uint8 of an image (3, H, W) uint8, as ``preprocess`` cuts it; see :class:`Preprocess`.

    Whole numbers alone, so that they stay unknown until the file runs: the offset of the crop is Python's round of a
    half. With ``in_steps`` numbers are resized instead of bytes, and rounded after each side.
    """

    def __init__(self, preprocess: Preprocess, *, in_steps: bool) -> None:
        super().__init__()
        self.size, self.resize_to, self.largest = preprocess.size, preprocess.resize_to, LARGEST
        self.in_steps, self.shorter, self.mode = in_steps, preprocess.resize == "shorter", str(preprocess.interpolation)
        self.places: Tensor
        self.register_buffer("places", torch.arange(preprocess.size), persistent=False)

    def forward(self, image: Tensor) -> Tensor:  # noqa: D102
        high, wide = image.shape[1], image.shape[2]
        tall, broad = self.resize_to, self.resize_to
        if self.shorter:
            shorter: int = min(high, wide) if is_scripting() else torch.sym_min(high, wide)  # type: ignore[assignment]
            tall, broad = (self.resize_to * high) // shorter, (self.resize_to * wide) // shorter
        if is_scripting():
            assert tall * broad <= self.largest, "resized, the image would have more than 16,777,216 pixels"
        elif not self.in_steps:
            torch._check(tall * broad <= self.largest)
        if self.in_steps:
            view = image[None].float()
            for size in ([high, broad], [tall, broad]):
                view = interpolate(view, size, mode=self.mode, antialias=True, align_corners=False)
                view = view.clamp(0, 255).round()
        else:
            view = interpolate(image[None], [tall, broad], mode=self.mode, antialias=True, align_corners=False)
        for dim, extra in ((2, tall - self.size), (3, broad - self.size)):
            half = extra // 2
            view = view.index_select(dim, self.places + (half + (extra % 2) * (half % 2)))
        return view[0].to(torch.uint8)


class Pixels(nn.Module):
    """The view of an image for each of ``preprocesses``, and with ``sizes`` its proportions (3,) after them."""

    def __init__(self, preprocesses: list[Preprocess], sizes: bool, *, in_steps: bool) -> None:
        super().__init__()
        self.squares = nn.ModuleList([Square(preprocess, in_steps=in_steps) for preprocess in preprocesses])
        self.sizes = sizes

    def forward(self, image: Tensor) -> list[Tensor]:  # noqa: D102
        views: list[Tensor] = []
        for square in self.squares:
            views.append(square(image))
        if self.sizes:
            tall, wide = (torch.full([1], side, dtype=torch.float32) for side in (image.shape[1], image.shape[2]))
            views.append(torch.cat([tall / wide, tall / 224, wide / 224]))
        return views


class Vector(nn.Module):
    """The vector (E,) of the views of one image, as ``embedder`` computes it; ``preprocesses`` cut the views."""

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.backbones = embedder.backbones
        self.frozen = [_exportable(backbone) for backbone in self.backbones]
        self.preprocesses = list(dict.fromkeys(backbone.preprocess for backbone in self.backbones))
        self.fused, self.sizes = embedder.sizes or len(self.backbones) > 1, embedder.sizes
        self.dtype: torch.dtype = getattr(torch, str(embedder.dtype))
        self.networks = nn.ModuleList(dict.fromkeys(frozen.network for frozen in self.frozen))
        self.head = None if embedder.head is None else exportable_head(embedder.head)

    def forward(self, views: list[Tensor]) -> Tensor:  # noqa: D102
        outputs: dict[Frozen, Tensor] = {}
        parts = []
        for backbone, frozen in zip(self.backbones, self.frozen, strict=True):
            if frozen not in outputs:
                view = views[self.preprocesses.index(backbone.preprocess)]
                outputs[frozen] = _outputs(frozen, backbone.preprocess, view)
            parts.append(_mean(outputs[frozen][:, backbone.columns]).to(self.dtype))
        vector = self._fused(parts, views[-1]) if self.fused else parts[0]
        if self.head is not None:
            embedding: Tensor = self.head(vector.float())
            return embedding[0]
        return ((_unit(vector.float()) * _GRID).round() / _GRID)[0]

    def _fused(self, parts: list[Tensor], proportions: Tensor) -> Tensor:
        """See :func:`cache.features.fuse`."""
        rows = [_unit(part.float()) for part in parts] + ([proportions[None]] if self.sizes else [])
        return torch.cat(rows, 1).to(self.dtype)


class ChosenExpert(nn.Module):
    """What ``experts`` embeds one feature (1, D) as: all of them do, and one is taken."""

    def __init__(self, experts: Experts) -> None:
        super().__init__()
        self.experts = experts

    def forward(self, feature: Tensor) -> Tensor:  # noqa: D102
        own = self.experts
        predicted = nn.functional.linear(own.inputs(feature), own.weight, own.bias)
        domain = (predicted - own.means).square().sum(1).argmin(0, keepdim=True)  # as Gate: the nearest mean
        inside = torch.cat([expert(feature) for expert in own.heads])
        return normalize(torch.cat([own.corners[domain], inside[domain]], 1))


def _exportable(backbone: Backbone) -> Frozen:
    """The network of ``backbone``. Raises SettingsError where it, or its preprocessing, has no form outside."""
    preprocess, fields = backbone.preprocess, backbone.identity.fields
    frozen = frozen_of(backbone)
    of_pillow = preprocess.interpolation not in ("bilinear", "bicubic")
    reasons = {
        f"resize = {preprocess.resize!r} is not: shorter and squash are": preprocess.resize == "longest",
        f"interpolation = {preprocess.interpolation!r} is Pillow's: bilinear and bicubic are": of_pillow,
        "crops drawn by an image's digest are not: views of kind flip, and none, are": (
            preprocess.views is not None and preprocess.views.kind == "crops"
        ),
        "it is no network of a library: those of timm and open_clip are": frozen is None,
        "precision = 'bfloat16' is not: float32 and tf32 are": fields.get("precision") == "bfloat16",
        "a compiled network is not: without compiled it is": bool(fields.get("compiled")),
    }
    if wrong := next((reason for reason, holds in reasons.items() if holds), None):
        raise SettingsError(f"{backbone.name} cannot be exported to one file: {wrong}. A bundle holds it as it is.")
    assert frozen is not None
    return frozen


def exportable_head(head: Callable[[npt.NDArray[np.generic]], npt.NDArray[np.float32]]) -> nn.Module:
    """The network of a trained ``head``, one feature (1, D) to (1, E), in a form that PyTorch can write."""
    if not isinstance(head, Head):
        raise SettingsError(f"a head is exported from stages.training.Head, got {type(head).__name__}")
    network: HeadNetwork = deepcopy(head.network).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, PosteriorNetwork):  # its sizes are constants of the file, not tensors
            for name in ("sizes", "several"):
                constant = getattr(module, name)
                delattr(module, name)
                setattr(module, name, constant)
    return ChosenExpert(network) if isinstance(network, Experts) else network


def _outputs(frozen: Frozen, preprocess: Preprocess, view: Tensor) -> Tensor:
    """The outputs (V, D) of a network, side by side, for ``view`` (3, S, S) uint8 and for its mirror image."""
    views = view[None] if preprocess.views is None else torch.stack([view, view.flip(2)])
    mean, std = preprocess.colours("cpu")
    normal = views.to(torch.float32).div(255).sub(mean).div(std)
    values = frozen.compute(normal.contiguous(memory_format=frozen.layout))
    return torch.cat([value.float() for value in values], 1)


def _mean(views: Tensor) -> Tensor:
    """The mean (1, D) of the features (V, D) of several views, each of unit length; of one the feature itself."""
    if len(views) == 1:
        return views
    lengths = _pairwise_sum(views.square()).sqrt()
    return (views / lengths.clamp(min=_TINY)).mean(0, keepdim=True)


def _pairwise_sum(rows: Tensor) -> Tensor:
    """The sums (V, 1) of ``rows`` (V, D) in the order in which NumPy adds: halves, then every eighth number."""
    count = rows.shape[1]
    if count > _NUMPY_BLOCK:
        half = count // 2 // 8 * 8
        return _pairwise_sum(rows[:, :half]) + _pairwise_sum(rows[:, half:])
    eighths = list(torch.split(rows[:, : count // 8 * 8], 8, dim=1)) if count >= 8 else []
    rest = list(torch.split(rows[:, 8 * len(eighths) :], 1, dim=1)) if count % 8 else []
    if eighths:
        one = reduce(torch.add, eighths)
        while one.shape[1] > 1:
            one = one[:, ::2] + one[:, 1::2]
        rest.insert(0, one)
    return reduce(torch.add, rest)


def _unit(rows: Tensor) -> Tensor:
    lengths = rows.double().square().sum(1, keepdim=True).sqrt().float()
    return rows / torch.where(lengths > 0, lengths, 1)


class Whole(nn.Module):
    """An image (3, H, W) uint8 to its vector (E,)."""

    def __init__(self, pixels: nn.Module, vector: nn.Module) -> None:
        super().__init__()
        self.pixels, self.vector = pixels, vector

    def forward(self, image: Tensor) -> Tensor:  # noqa: D102
        if is_scripting():
            assert image.dtype == torch.uint8, "an image is (3, H, W) uint8"
            assert image.dim() == 3 and image.size(0) == 3, "an image is (3, H, W) uint8"  # noqa: PT018
        vector: Tensor = self.vector(self.pixels(image))
        return vector
