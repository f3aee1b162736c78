"""Principal components of small images: the baseline that any network has to beat."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np
import numpy.typing as npt

from cache.errors import SettingsError, WeightsError
from cache.fingerprint import Identity, digest_bytes
from cache.settings import Settings
from cache.storage import Storage
from stages.extraction.backbones.frozen import Backbone, folder_name
from stages.extraction.preprocess import DECODERS, Preprocess, PreprocessConfig

_BLOCK = 1024
_IN_MEMORY = 256 << 20  # bytes of pixels as float32


@dataclass(frozen=True)
class PcaConfig(Settings):
    """Images squashed to ``size`` x ``size`` pixels and projected on their first ``dim`` principal components.

    Args:
        name: what the backbone is called.
        dim: principal components.
        size: pixels of a side that images are squashed to.
        seed: of the randomised solver that large sets need.
    """

    name: str = "pca"
    kind: Literal["pca"] = "pca"
    dim: int = 128
    size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise SettingsError(f"size is in pixels and must be at least 1, got {self.size}")
        if not 1 <= self.dim <= 3 * self.size**2:
            raise SettingsError(f"dim must be from 1 to 3 x {self.size} x {self.size}, got {self.dim}")

    @property
    def preprocess(self) -> Preprocess:
        """The squash to a square, and values in [0, 1]."""
        return PreprocessConfig().resolve(
            size=self.size, mean=(0, 0, 0), std=(1, 1, 1), resize="squash", interpolation="bilinear"
        )


@dataclass(frozen=True)
class PcaBasis:
    """The mean (P,) and components (D, P) of P = 3 x size x size pixel values, channel by channel, in float32.

    >>> PcaBasis(np.zeros(3, np.float32), np.eye(3, dtype=np.float32)).digest[:8]
    'c4186174'
    """

    mean: npt.NDArray[np.float32]
    components: npt.NDArray[np.float32]

    @cached_property
    def digest(self) -> str:
        """The sha256 of the numbers, hexadecimal."""
        return digest_bytes(self.mean.tobytes() + self.components.tobytes()).hex()

    def write(self, storage: Storage, key: str) -> None:
        """Write the basis to a safetensors file, whole or not at all."""
        from safetensors.numpy import save

        storage.put(key, save({"mean": self.mean, "components": self.components}))

    @classmethod
    def read(cls, storage: Storage, key: str) -> PcaBasis:
        """The basis that :meth:`write` wrote. Raises :class:`WeightsError`."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            content = load(storage.read(key))
            return cls(content["mean"], content["components"])
        except (OSError, SafetensorError, KeyError) as error:
            raise WeightsError(
                f"{storage.address(key)} cannot be read as a PCA basis: {error}. Delete it to have it fitted again."
            ) from error


def fit_pca_basis(config: PcaConfig, images: Iterable[npt.NDArray[np.uint8]]) -> PcaBasis:
    """The basis of ``images``, each (H, W, 3) uint8 of any size: for training images only.

    By scikit-learn; where the pixels would take more than 256 MiB (21,845 images of 32 x 32), by the eigenvectors of
    their covariance, summed a block at a time. Raises WeightsError when there are fewer images than ``config.dim``.

    >>> grey = [np.full((4, 4, 3), level, np.uint8) for level in (0, 51, 255)]
    >>> fit_pca_basis(PcaConfig(dim=1, size=1), grey).mean
    array([0.4, 0.4, 0.4], dtype=float32)
    """
    preprocess = config.preprocess
    width = 3 * config.size**2
    rows = (preprocess(image).reshape(-1) for image in images)
    held: list[npt.NDArray[np.uint8]] = []
    count, total, products = 0, np.zeros(width), None  # sums of whole numbers below 2**53: exact, in any order
    while block := list(islice(rows, _BLOCK)):
        held.append(np.stack(block))
        count += len(block)
        if 4 * width * count > _IN_MEMORY:
            products = np.zeros((width, width)) if products is None else products
            for part in held:
                values = part.astype(np.float64)
                total += values.sum(axis=0)
                products += values.T @ values
            held.clear()
    if count < config.dim:
        raise WeightsError(
            f"PCA with dim = {config.dim} needs as many training images, got {count}: give a smaller dim or more images"
        )
    if products is None:
        from sklearn.decomposition import PCA

        fitted = PCA(config.dim, random_state=config.seed).fit(np.concatenate(held).astype(np.float32) / 255)
        return PcaBasis(fitted.mean_.astype(np.float32), np.ascontiguousarray(fitted.components_, dtype=np.float32))
    mean = total / count
    _, axes = np.linalg.eigh(products / count - np.outer(mean, mean))  # ascending
    axes = axes[:, : -config.dim - 1 : -1].T
    signs = np.sign(axes[np.arange(config.dim), np.abs(axes).argmax(axis=1)])  # the largest value of each is positive
    return PcaBasis((mean / 255).astype(np.float32), np.ascontiguousarray(signs[:, None] * axes, np.float32))


def load(config: PcaConfig, basis: PcaBasis | None) -> Backbone:
    """The projection on ``basis``."""
    if basis is None:
        raise SettingsError(
            "a PCA backbone needs its basis: fit_pca_basis(config, images) makes it from training images"
        )
    wanted = (config.dim, 3 * config.size**2)
    if basis.components.shape != wanted or basis.mean.shape != wanted[1:]:
        raise WeightsError(f"the PCA basis must have components of shape {wanted}, got {basis.components.shape}")
    mean, axes = basis.mean, np.ascontiguousarray(basis.components.T)

    def forward(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        if batch.shape[1:] != (3, config.size, config.size) or batch.dtype != np.uint8:
            raise SettingsError(
                f"a batch must be (B, 3, {config.size}, {config.size}) uint8, got {batch.shape} {batch.dtype}"
            )
        values = np.divide(batch.reshape(len(batch), -1), 255, dtype=np.float32)
        projected: npt.NDArray[np.float32] = (values - mean) @ axes
        return projected

    identity = Identity(
        {
            "library": "pca",
            "model": "pca",
            "weights": basis.digest,
            "output": "projected",
            "preprocess": config.preprocess.identity(),
            "precision": "float32",
            "decoder": DECODERS[config.preprocess.decoder],
        }
    )
    return Backbone(folder_name(config.name), config.dim, identity, config.preprocess, forward)
