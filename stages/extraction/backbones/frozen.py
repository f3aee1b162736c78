"""Backbone: a frozen network with its preprocessing and the identity of what it computes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from cache.fingerprint import JSON
from cache.identity import Identity
from stages.extraction.backbones.weights import digest_weights
from stages.extraction.preprocess import Preprocess
from stages.extraction.resize import DECODERS

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16"]

Forward = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Backbone:
    """A frozen network with its preprocessing.

    ``forward`` takes what ``preprocess`` makes, (B, 3, S, S) uint8, and returns features (B, ``dim``) float32, not
    normalised. ``identity`` holds all that changes them; ``name`` is for people and folders, ``device`` is only
    recorded.
    """

    name: str
    dim: int
    identity: Identity
    preprocess: Preprocess
    forward: Forward
    device: str = "cpu"


def freeze(
    network: torch.nn.Module,
    preprocess: Preprocess,
    *,
    name: str,
    library: str,
    model: str,
    output: Literal["pooled", "projected"],
    kwargs: Mapping[str, JSON],
    precision: Precision,
    device: str,
) -> Backbone:
    """Make a backbone of a ``network`` that maps normalised images (B, 3, S, S) to features (B, D).

    The network is put into evaluation mode for good and moved to ``device``. ValueError when it does not take images
    of the preprocessing's size, or gives anything but one vector an image.
    """
    identity = Identity(
        {
            "library": library,
            "model": model,
            "weights": digest_weights(network),
            "output": output,
            "kwargs": dict(kwargs),
            "preprocess": preprocess.identity(),
            "precision": precision,
            "decoder": DECODERS[preprocess.decoder],
        }
    )
    size = preprocess.size
    try:
        forward = _forward(network, preprocess, precision, device)
        shape = forward(np.zeros((1, 3, size, size), np.uint8)).shape
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{model} does not run on images of {size} x {size} on {device}: {error}. "
            "Its own size is the default of preprocess.size; some networks take another in kwargs."
        ) from error
    if len(shape) != 2 or shape[0] != 1:
        raise ValueError(f"{model} must give one vector an image, (1, D), got {shape}: choose a pooling in kwargs")
    return Backbone(folder_name(name), shape[1], identity, preprocess, forward, device)


def folder_name(name: str) -> str:
    """``name`` with everything but letters, digits, dots, dashes and underscores made a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")


def _forward(network: torch.nn.Module, preprocess: Preprocess, precision: Precision, device: str) -> Forward:
    import torch

    kind = torch.device(device).type
    convolutional = sum(isinstance(module, torch.nn.Conv2d) for module in network.modules()) > 1
    layout = torch.channels_last if convolutional else torch.contiguous_format  # twice as fast on a CPU
    network.eval().requires_grad_(False).to(device).to(memory_format=layout)

    def forward(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        if batch.ndim != 4 or batch.shape[1:] != (3, preprocess.size, preprocess.size) or batch.dtype != np.uint8:
            wanted = f"(B, 3, {preprocess.size}, {preprocess.size}) uint8"
            raise ValueError(f"a batch must be {wanted}, got {batch.shape} {batch.dtype}")
        pixels = torch.from_numpy(np.require(batch, requirements=["C", "W"])).to(device)
        with (
            torch.inference_mode(),
            _exact(kind),
            torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bfloat16"),
        ):
            features: torch.Tensor = network(preprocess.normalize(pixels).contiguous(memory_format=layout))
        return features.float().cpu().numpy()

    return forward


def _exact(kind: str) -> AbstractContextManager[None]:
    """While inside, CUDA convolutions are deterministic and float32 is float32, not TF32."""
    import torch

    if kind != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
