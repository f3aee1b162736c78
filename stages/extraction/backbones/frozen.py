"""Backbone: a frozen network with its preprocessing and the identity of what it computes."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cache.errors import SettingsError, WeightsError
from cache.fingerprint import JSON, Identity
from stages.extraction.backbones.network_config import NetworkConfig
from stages.extraction.backbones.pooling import Compute, Output
from stages.extraction.backbones.precision import Precision, arithmetic
from stages.extraction.backbones.weights import digest_weights, fit_weights, read_weights, weights_bytes
from stages.extraction.preprocess import DECODERS, Preprocess

if TYPE_CHECKING:
    import torch

Forward = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Backbone:
    """What a frozen network computes, and the network.

    :meth:`features` takes what ``preprocess`` makes, (B, 3, S, S) uint8, and returns features (B, ``dim``) float32, not
    normalised. ``identity`` holds everything that changes them; ``name`` is for people and folders, ``device`` is only
    recorded. Several poolings of one network share one ``forward``, which returns the features of all side by side:
    ``columns`` says which are this one's. ``sample`` is that of :mod:`stages.extraction.known`, where it is known.

    A backbone pickles in about two kilobytes: its :class:`Network` travels as the configuration that it is loaded from.

    >>> from stages.extraction import PreprocessConfig
    >>> preprocess = PreprocessConfig().resolve(size=2, mean=(0, 0, 0), std=(1, 1, 1))
    >>> identity = Identity({"network": "the mean of each channel"})
    >>> backbone = Backbone("mean", 3, identity, preprocess, lambda batch: batch.mean((2, 3), np.float32))
    >>> backbone.features(np.full((1, 3, 2, 2), 7, np.uint8))
    array([[7., 7., 7.]], dtype=float32)
    """

    name: str
    dim: int
    identity: Identity
    preprocess: Preprocess
    forward: Forward
    device: str = "cpu"
    columns: slice = field(default_factory=lambda: slice(None))
    sample: tuple[float, ...] = ()

    def features(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The features (B, ``dim``) float32 of ``batch`` (B, 3, S, S) uint8."""
        return self.forward(batch)[:, self.columns]


class Network:
    """The forward of a frozen network, loaded on its device when it is first called.

    ``load`` makes its backbones on a device, and can be pickled; their identities must have the ``fingerprints``.
    ``forward`` is the loaded network, where there is one; ``on_load`` is called before it is loaded. The last two are
    not pickled.
    """

    def __init__(
        self,
        load: Callable[[str], Sequence[Backbone]],
        device: str,
        fingerprints: Sequence[str],
        forward: Forward | None = None,
        on_load: Callable[[], None] = lambda: None,
    ) -> None:
        self.device = device
        self._load = load
        self._fingerprints = tuple(fingerprints)
        self._forward = forward
        self._on_load = on_load
        self._lock = threading.Lock()

    def __call__(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The features (B, D), of all poolings side by side, of ``batch`` (B, 3, S, S) uint8."""
        return self.load()(batch)

    def load(self) -> Forward:
        """The network on its device. Raises WeightsError where it is not the one that was announced."""
        with self._lock:
            if self._forward is None:
                self._on_load()
                backbones = self._load(self.device)
                if (loaded := tuple(backbone.identity.fingerprint for backbone in backbones)) != self._fingerprints:
                    raise WeightsError(
                        f"{backbones[0].name} on {self.device} has the identities {_short(loaded)}, not "
                        f"{_short(self._fingerprints)}: its weights or a library changed meanwhile. Start again."
                    )
                self._forward = backbones[0].forward
            return self._forward

    def on(self, device: str) -> Network:
        """The same network on ``device``, not loaded yet."""
        return Network(self._load, device, self._fingerprints, on_load=self._on_load)

    def __reduce__(self) -> tuple[Any, ...]:
        return Network, (self._load, self.device, self._fingerprints)


def place(backbones: Sequence[Backbone], device: str) -> list[Backbone]:
    """``backbones`` on ``device``, loaded there when they first run. Those that share a network still share one."""
    networks: dict[Forward, Forward] = {}
    for backbone in backbones:
        forward = backbone.forward
        if forward not in networks:
            networks[forward] = forward.on(device) if isinstance(forward, Network) else forward
    return [replace(backbone, forward=networks[backbone.forward], device=device) for backbone in backbones]


def _short(fingerprints: Sequence[str]) -> str:
    return ", ".join(fingerprint[:8] for fingerprint in fingerprints)


@dataclass(frozen=True)
class StoredNetwork:
    """A network as it was once frozen, in place of all that a config names: a file of :func:`network_bytes`."""

    weights: Path
    preprocess: Preprocess


def frozen_of(backbone: Backbone) -> Frozen | None:
    """The network of ``backbone``, loaded; None where it is none of a library."""
    forward = backbone.forward.load() if isinstance(backbone.forward, Network) else backbone.forward
    return forward if isinstance(forward, Frozen) else None


def network_bytes(backbone: Backbone) -> bytes:
    """A safetensors file of all that the network of ``backbone`` computes with, as it was frozen."""
    frozen = frozen_of(backbone)
    if frozen is None:
        raise SettingsError(f"{backbone.name} is no network of a library: its weights cannot be written to a file")
    return weights_bytes(frozen.network)


def freeze(
    network: torch.nn.Module,
    preprocess: Preprocess,
    config: NetworkConfig,
    *,
    name: str,
    library: str,
    outputs: Sequence[Output],
    compute: Compute | None,
    image_size: int | None,
    device: str,
    stored: StoredNetwork | None = None,
) -> tuple[Backbone, ...]:
    """Make backbones of a ``network``, one for each of ``outputs``.

    ``compute`` maps normalised images (B, 3, S, S) to the outputs, each (B, D); None for the network's own.
    ``image_size`` is the size that the network was fitted to, where that is not its own. A ``stored`` network gives its
    weights and the preprocessing in place of those at hand. The network is put into evaluation mode for good and moved
    to ``device``. ValueError when it does not take images of the preprocessing's size, or gives anything but one vector
    an image.
    """
    import torch

    if stored is not None:
        preprocess = stored.preprocess
        fit_weights(network, read_weights(stored.weights), source=str(stored.weights))
    common: dict[str, JSON] = {
        "library": library,
        "model": config.name,
        "weights": digest_weights(network),
        "kwargs": dict(config.kwargs),
        "preprocess": preprocess.identity(),
        "precision": config.precision,
        "decoder": DECODERS[preprocess.decoder],
    }
    if image_size is not None:
        common["image_size"] = image_size
    if config.compiled:
        common["compiled"] = True
    weights: list[dict[str, JSON]] = [
        {} if output.module is None else {"weights": digest_weights(output.module)} for output in outputs
    ]
    size = preprocess.size
    try:
        compute = compute or (lambda images: [network(images)])
        if config.compiled:  # once for batches of all sizes: a minute at the first batch
            compute = torch.compile(compute, dynamic=True)
        convolutional = sum(isinstance(module, torch.nn.Conv2d) for module in network.modules()) > 1
        layout = torch.channels_last if convolutional else torch.contiguous_format  # twice as fast on a CPU
        run = _runner(network, compute, layout, preprocess, config.precision, device)
        if config.compiled:  # one image is a special case to the compiler: compile for several here too
            run(np.zeros((2, 3, size, size), np.uint8))
        shapes = [tuple(values.shape) for values in run(np.zeros((1, 3, size, size), np.uint8))]
    except (AssertionError, RuntimeError, ValueError) as error:
        raise SettingsError(
            f"{config.name} does not run on images of {size} x {size} on {device}: {error}. "
            "Its own size is the default; many networks take another as image_size, some in kwargs."
        ) from error
    for shape in shapes:
        if len(shape) != 2 or shape[0] != 1:
            raise SettingsError(f"{config.name} must give one vector an image, (1, D), got {shape}: choose a pooling")

    forward = Frozen(network, compute, layout, run)
    ends = [0, *np.cumsum([width for _, width in shapes]).tolist()]
    return tuple(
        Backbone(
            folder_name("-".join(filter(None, (name, output.name)))),
            last - first,
            Identity({**common, **own, **output.identity}),
            preprocess,
            forward,
            device,
            slice(first, last),
        )
        for output, own, (first, last) in zip(outputs, weights, pairwise(ends), strict=True)
    )


@dataclass(frozen=True, eq=False)
class Frozen:
    """The forward of a ``network``: the features (B, D) of all of its outputs side by side."""

    network: torch.nn.Module
    compute: Compute
    layout: torch.memory_format
    run: Callable[[npt.NDArray[np.uint8]], list[npt.NDArray[np.float32]]]

    def __call__(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The features of ``batch`` (B, 3, S, S) uint8."""
        values = self.run(batch)
        return values[0] if len(values) == 1 else np.concatenate(values, axis=1)


def folder_name(name: str) -> str:
    """``name`` with everything but letters, digits, dots, dashes and underscores made a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")


def _runner(
    network: torch.nn.Module,
    compute: Compute,
    layout: torch.memory_format,
    preprocess: Preprocess,
    precision: Precision,
    device: str,
) -> Callable[[npt.NDArray[np.uint8]], list[npt.NDArray[np.float32]]]:
    import torch

    kind = torch.device(device).type
    network.eval().requires_grad_(False).to(device).to(memory_format=layout)
    colours = preprocess.colours(device)

    def run(batch: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        if batch.ndim != 4 or batch.shape[1:] != (3, preprocess.size, preprocess.size) or batch.dtype != np.uint8:
            wanted = f"(B, 3, {preprocess.size}, {preprocess.size}) uint8"
            raise SettingsError(f"a batch must be {wanted}, got {batch.shape} {batch.dtype}")
        pixels = torch.from_numpy(np.require(batch, requirements=["W"]))
        if kind == "cuda":
            pixels = (pixels if pixels.is_pinned() else pixels.pin_memory()).to(device, non_blocking=True)
        with torch.inference_mode(), arithmetic(precision, kind):
            values = compute(preprocess.normalize(pixels, colours).contiguous(memory_format=layout))
        return [value.float().cpu().numpy() for value in values]

    return run
