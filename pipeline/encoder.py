"""Images -> vectors in a line: paths, bytes, Pillow images, arrays or a whole folder, through a bundle.

The way is that of an extraction: files are read and decoded ahead on threads, and a vector equals the stored one bit
for bit where the image shares its batch with the same images. Pixels that are at hand enter where a file would be
decoded: an array is upright RGB, a Pillow image is treated as its file would be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from cache import ImageSource, parse_source
from cache.errors import RecordsError, SettingsError
from pipeline.bundle import Bundle
from pipeline.progress import Display
from stages.datasets.folder import list_files
from stages.device import keep_freed_memory
from stages.extraction import Embedder
from stages.extraction.extract import ON_CPU
from stages.extraction.flow import Batch, Clock, Held, flow
from stages.processes import processors
from stages.ranking import unit_length

if TYPE_CHECKING:
    from PIL import Image

Picture: TypeAlias = "str | Path | bytes | npt.NDArray[np.uint8] | Image.Image"
"""A path or URI, the bytes of a file, pixels (H, W, 3) uint8 RGB, or a Pillow image."""


class Failed(NamedTuple):
    """An image without a vector: its place among those given, its path (or what it is called), and why."""

    place: int
    name: str
    reason: str


class Encoded(NamedTuple):
    """Vectors (n, E) of n images, NaN for each of ``failed``; the digests are of their bytes (or pixels).

    ``names`` are their paths, of a folder as seen from it; pixels and bytes are called by their place.
    """

    vectors: npt.NDArray[np.float32]
    failed: list[Failed]
    digests: list[bytes]
    names: list[str]


class Encoder:
    """Gives images the vectors that a bundle or a run holds for them.

    ``batch_size`` images go into one forward; ``workers`` threads read and decode, by default one for each processor.

    >>> from stages.extraction import PcaBasis, PcaConfig, load_backbone
    >>> basis = PcaBasis(np.zeros(12, np.float32), np.eye(12, dtype=np.float32)[:2])
    >>> encoder = Encoder(Embedder([load_backbone(PcaConfig(dim=2, size=2), basis=basis)]))
    >>> encoder.encode(np.full((8, 8, 3), 255, np.uint8)).vectors
    array([[0.70710677, 0.70710677]], dtype=float32)
    """

    def __init__(self, embedder: Embedder, *, batch_size: int = ON_CPU, workers: int | None = None) -> None:
        if batch_size < 1:
            raise SettingsError(f"batch_size is at least 1, got {batch_size}")
        self.embedder, self.batch_size = embedder, batch_size
        self._workers = workers or processors()

    @classmethod
    def load(
        cls, path: Path | str, *, device: str = "cpu", batch_size: int = ON_CPU, workers: int | None = None
    ) -> Encoder:
        """The encoder of a bundle; raises what :meth:`Bundle.open` raises."""
        return cls(Bundle.open(path).embedder(device), batch_size=batch_size, workers=workers)

    @property
    def dim(self) -> int:
        """E, the size of a vector."""
        return int(self.embedder.embed([]).vectors.shape[1])

    def encode(self, images: Picture | Sequence[Picture], *, unit: bool = True, progress: bool = False) -> Encoded:
        """The vectors of ``images``; those that have none are listed, and the others are not affected.

        A folder stands for all images below it, in the order of their paths. With ``unit`` vectors have unit length, as
        those of a bundle: their products are similarities. Otherwise they are what a store holds.

        Raises SettingsError for what is no image by its type, dtype or shape, RecordsError for a folder without one,
        and for one image alone that has no vector.
        """
        names, sources = _sources(images)
        with Display(quiet=not progress).bar("encoding", "images") as update:
            encoded = self.encode_sources(names, sources, unit=unit, on_progress=update)
        if encoded.failed and _is_one(images):
            raise RecordsError(
                f"{names[0]} is neither a folder nor an image that can be read: {encoded.failed[0].reason}"
            )
        return encoded

    def encode_sources(
        self,
        names: Sequence[str],
        sources: Sequence[ImageSource | Held],
        digests: Sequence[bytes] | None = None,
        *,
        unit: bool = True,
        on_progress: Callable[[int, int, str], None] = lambda *_: None,
    ) -> Encoded:
        """:meth:`encode` for ``sources`` that failures call by ``names``; another digest than of ``digests`` is one.

        ``on_progress`` is called with images done, images of all, and a remark.
        """
        backbones = self.embedder.backbones
        device = next((backbone.device for backbone in backbones if backbone.device != "cpu"), "cpu")
        keep_freed_memory(one_arena=device == "cpu")
        known, size = digests or [b""] * len(sources), self.batch_size
        batches = (
            Batch(list(known[low : low + size]), list(sources[low : low + size]), backbones)
            for low in range(0, len(sources), size)
        )
        parts = [self.embedder.embed([]).vectors.astype(np.float32)]
        seen: list[bytes] = []
        failed: list[Failed] = []
        for batch in flow(batches, workers=self._workers, clock=Clock(), device=device):
            embedded = self.embedder.finish(batch.features, batch.outcomes)
            for row, reason in embedded.problems.items():
                failed.append(Failed(len(seen) + row, names[len(seen) + row], reason))
            parts.append(unit_length(embedded.vectors) if unit else embedded.vectors.astype(np.float32))
            seen += batch.digests
            on_progress(len(seen), len(sources), f"{len(failed):,} failed" if failed else "")
        return Encoded(np.concatenate(parts), failed, seen, list(names))


def folder_images(folder: Path) -> list[str]:
    """The paths of all images below ``folder``, seen from it, in their order. RecordsError where there is none."""
    images = [path.as_posix() for path in list_files(folder).images]
    if not images:
        raise RecordsError(f"{folder} holds no image, in it or below it")
    return images


def _is_one(images: Picture | Sequence[Picture]) -> bool:
    """Whether this is one image, or is meant for one, and no sequence or folder of them."""
    from PIL import Image

    if isinstance(images, (str, Path)):
        return not Path(images).is_dir()
    return isinstance(images, (bytes, Image.Image)) or (isinstance(images, np.ndarray) and images.ndim == 3)


def _sources(images: Picture | Sequence[Picture]) -> tuple[list[str], list[ImageSource | Held]]:
    """What each of ``images`` is called, and where it is read."""
    if isinstance(images, (str, Path)) and Path(images).is_dir():
        names = folder_images(Path(images))
        return names, [ImageSource(str(Path(images) / name)) for name in names]
    each = [images] if _is_one(images) else list(images)  # type: ignore[arg-type]
    names = [str(image) if isinstance(image, (str, Path)) else f"image {place}" for place, image in enumerate(each)]
    return names, [_source(image) for image in each]


def _source(image: object) -> ImageSource | Held:
    from PIL import Image

    if isinstance(image, (str, Path)):
        return parse_source(str(image))
    if isinstance(image, np.ndarray) and (image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8):
        raise SettingsError(f"an array must be pixels (H, W, 3), uint8 RGB, got {image.shape} {image.dtype}")
    if isinstance(image, np.ndarray) and not image.size:
        raise SettingsError(f"an image has a pixel at least, got {image.shape}")
    if isinstance(image, (bytes, np.ndarray, Image.Image)):
        return Held(image)
    raise SettingsError(
        f"an image is a path, bytes, a Pillow image or an array (H, W, 3) uint8, got {type(image).__name__}"
    )
