"""Image bytes -> the numbers that a store holds for these bytes. No other code goes from pixels to vectors.

Extraction calls :func:`prepare` in its reader threads and :func:`compute` where the networks run; :class:`Embedder`
calls both for images at hand, rounds to the stored dtype, fuses backbones, and applies a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from cache import RowOutcome
from cache.errors import SettingsError
from cache.features import fuse, image_proportions
from cache.rows import as_stored
from cache.source import Box, ImageSource
from stages.extraction.backbones import Backbone
from stages.extraction.backbones.frozen import Forward
from stages.extraction.decode import DecodeError, NoDecoderError, decode
from stages.extraction.preprocess import Preprocess

Pixels = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]
Head = Callable[[npt.NDArray[np.generic]], npt.NDArray[np.float32]]
"""A trained head: features (n, D) as a store gives them to embeddings (n, E)."""

ONE_COLOUR = "all of its pixels have one colour"  # the note of an image with a feature that says nothing

_NO_MEMORY = "can't allocate memory"  # in the RuntimeError that PyTorch raises on a CPU


class Embedded(NamedTuple):
    """Vectors (n, D) of n images, NaN for an image without one, and its reason by position."""

    vectors: npt.NDArray[np.generic]
    problems: dict[int, str]


class Embedder:
    """Embeds image bytes exactly as the stores of ``backbones``, or of a head trained on them, hold them.

    The vectors equal the stored ones bit for bit where an image shares its batch with the same images, and otherwise
    within the rounding of the network's arithmetic. Of stored views that are not averaged the plain one counts. With
    ``sizes`` the proportions of the images are fused too, as :class:`stages.training.FusedFeatures` does.

    >>> from stages.extraction import PcaBasis, PcaConfig, load_backbone
    >>> basis = PcaBasis(np.zeros(12, np.float32), np.eye(12, dtype=np.float32)[:2])
    >>> embedder = Embedder([load_backbone(PcaConfig(dim=2, size=2), basis=basis)])
    >>> embedded = embedder.embed([b"no image"])
    >>> embedded.vectors.shape, embedded.problems
    ((1, 2), {0: 'not an image that Pillow can read'})
    """

    def __init__(
        self,
        backbones: Sequence[Backbone],
        *,
        dtype: str = "float16",
        sizes: bool = False,
        head: Head | None = None,
        batch_size: int = 32,
    ) -> None:
        if not backbones:
            raise SettingsError("an embedder needs one backbone or more, got none")
        self.backbones = tuple(_plain_or_averaged(backbone) for backbone in backbones)
        self.dtype = np.dtype(dtype)
        self._fused = sizes or len(backbones) > 1
        self.sizes = sizes
        self.head = head
        self._batch_size = batch_size

    def embed(self, images: Sequence[bytes], *, boxes: Sequence[Box | None] | None = None) -> Embedded:
        """The vectors of ``images``, the bytes of image files, each whole or cropped to its box; NaN for none."""
        return embed_together([self], images, boxes=boxes)[0]

    def finish(self, parts: Sequence[Features], outcomes: Sequence[RowOutcome]) -> Embedded:
        """The vectors of one batch (B): ``parts`` are what :func:`compute` gave for each of :attr:`backbones`."""
        own = list(outcomes)
        vectors = self._stored(parts, own)
        problems = {row: one.error for row, one in enumerate(own) if one.status != "ok"}
        if self.head is None:
            return Embedded(vectors, problems)
        good = [row for row in range(len(own)) if row not in problems]
        embeddings = self.head(vectors[good])
        embedded = np.full((len(own), embeddings.shape[1]), np.nan, embeddings.dtype)
        embedded[good] = embeddings
        return Embedded(embedded, problems)

    def _stored(self, parts: Sequence[Features], outcomes: list[RowOutcome]) -> npt.NDArray[np.generic]:
        """One batch as the feature stores hold it; what they cannot hold becomes a failure among ``outcomes``."""
        rows = []
        for backbone, part in zip(self.backbones, parts, strict=True):
            row, outcomes[:] = as_stored(part[:, 0], self.dtype, outcomes, backbone.name)
            rows.append(row)
        if not self._fused:
            return rows[0]
        proportions: npt.NDArray[np.generic] | None = None
        if self.sizes:
            height, width = (np.array([max(1, getattr(o, side)) for o in outcomes]) for side in ("height", "width"))
            proportions = image_proportions(height, width)
            proportions, outcomes[:] = as_stored(proportions, self.dtype, outcomes, "the size of the image")
        return fuse(rows, self.dtype, proportions)


def embed_together(
    embedders: Sequence[Embedder], images: Sequence[bytes], *, boxes: Sequence[Box | None] | None = None
) -> list[Embedded]:
    """What each of ``embedders`` gives for ``images``; each is decoded once, and a network goes once over them."""
    boxes = [None] * len(images) if boxes is None else boxes
    digests = [ImageSource("", box=box).digest(content) for content, box in zip(images, boxes, strict=True)]
    backbones = [backbone for embedder in embedders for backbone in embedder.backbones]
    size = min(embedder._batch_size for embedder in embedders)
    vectors: list[list[npt.NDArray[np.generic]]] = [[] for _ in embedders]
    problems: list[dict[int, str]] = [{} for _ in embedders]
    for low in range(0, max(1, len(images)), size):
        batch = slice(low, low + size)
        sources = list(zip(images[batch], digests[batch], boxes[batch], strict=True))
        pixels = pixel_buffers(backbones, len(sources))
        read = [prepare(*source, row, pixels) for row, source in enumerate(sources)]
        parts = iter(compute(backbones, pixels, np.array([outcome.status == "ok" for outcome in read], bool)))
        for embedder, its_vectors, its_problems in zip(embedders, vectors, problems, strict=True):
            embedded = embedder.finish([next(parts) for _ in embedder.backbones], read)
            its_vectors.append(embedded.vectors)
            its_problems.update((low + row, why) for row, why in embedded.problems.items())
    joined = (np.concatenate(its_vectors) for its_vectors in vectors)
    return [Embedded(its_vectors, its_problems) for its_vectors, its_problems in zip(joined, problems, strict=True)]


def pixel_buffers(backbones: Sequence[Backbone], count: int) -> dict[Preprocess, Pixels]:
    """Room for the pixels of ``count`` images, (count, V, S, S, 3) for each preprocessing; pinned for a card."""
    import torch

    return {
        p: torch.empty((count, p.count, p.size, p.size, 3), dtype=torch.uint8, pin_memory=on_card).numpy()
        for p, on_card in {backbone.preprocess: backbone.device != "cpu" for backbone in backbones}.items()
    }


def prepare(
    content: bytes | Pixels, digest: bytes, box: Box | None, row: int, pixels: Mapping[Preprocess, Pixels]
) -> RowOutcome:
    """Decode an image's bytes and write its views into ``row`` of each of ``pixels``. Its outcome, with a note."""
    try:
        image = decode(content, box=box) if isinstance(content, bytes) else content
    except NoDecoderError as error:
        return RowOutcome("unread", error=str(error))
    except DecodeError as error:
        return RowOutcome("failed", error=str(error))
    for preprocess, target in pixels.items():
        for view, square in enumerate(preprocess.squares(image, digest)):
            target[row, view] = square
    plain = next(iter(pixels.values()))[row, 0]
    flat = (plain[0] == plain[0, 0]).all() and (plain == plain[0, 0]).all()  # most differ in the first line already
    return RowOutcome("ok", image.shape[1], image.shape[0], ONE_COLOUR if flat else "")


def compute(
    backbones: Sequence[Backbone], pixels: Mapping[Preprocess, Pixels], good: npt.NDArray[np.bool_]
) -> list[Features]:
    """The features (B, V, D) of a batch for each of ``backbones``; where ``good`` (B,) is false they are NaN.

    V is 1 where the views are averaged. A forward that several backbones share runs once.
    """
    shared: dict[Forward, Features | None] = {}
    features = []
    for backbone in backbones:
        preprocess = backbone.preprocess
        if backbone.forward not in shared:
            given = pixels[preprocess] if good.all() else pixels[preprocess][good]
            shared[backbone.forward] = forward_in_memory(backbone.forward, _planes(given)) if good.any() else None
        rows = np.full((len(good), preprocess.stored, backbone.dim), np.nan, np.float32)
        if (columns := shared[backbone.forward]) is not None:
            views = columns[:, backbone.columns].reshape(-1, preprocess.count, backbone.dim)
            rows[good] = views if preprocess.stored == preprocess.count else _mean(views)
        features.append(rows)
    return features


_largest: WeakKeyDictionary[Forward, int] = WeakKeyDictionary()
"""Of each forward that has run out of memory, how many squares it is given at once since then."""


def forward_in_memory(forward: Forward, planes: Pixels) -> Features:
    """``forward`` of ``planes`` (B, 3, S, S), in equal pieces that are halved until they fit, then and later on."""
    import torch

    size = min(len(planes), _largest.get(forward, len(planes)))
    while True:
        try:
            pieces = [forward(planes[low : low + size]) for low in range(0, len(planes), size)]
            return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            known = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _NO_MEMORY in str(error)
            if size == 1 or not known:
                raise
        size = (size + 1) // 2
        _largest[forward] = min(size, _largest.get(forward, size))
        torch.cuda.empty_cache()


def memory_limit(forward: Forward) -> int | None:
    """How many squares ``forward`` is given at once; None while it has not run out of memory."""
    return _largest.get(forward)


def limit_memory(forward: Forward, size: int) -> None:
    """Give ``forward`` at most ``size`` squares at once, as after it ran out of memory."""
    _largest[forward] = size


def _plain_or_averaged(backbone: Backbone) -> Backbone:
    """``backbone`` without the views that reading one row of a store leaves out."""
    if backbone.preprocess.stored == 1:
        return backbone
    return replace(backbone, preprocess=replace(backbone.preprocess, views=None))


def _mean(views: Features) -> Features:
    """The mean (n, 1, D) of ``views`` (n, V, D), each brought to unit length."""
    lengths = np.linalg.norm(views, axis=2, keepdims=True)
    mean: Features = np.mean(views / np.maximum(lengths, np.finfo(np.float32).tiny), axis=1, keepdims=True)
    return mean


def _planes(pixels: Pixels) -> Pixels:
    return pixels.reshape(-1, *pixels.shape[2:]).transpose(0, 3, 1, 2)
