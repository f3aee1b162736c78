"""Images through frozen networks: read, decoded and resized ahead on threads, each image once for all backbones.

::

    digests, sources (B) --readers--> pixels (B, V, S, S, 3) a preprocessing --network--> features (B, V, D) a backbone

A few batches are prepared ahead of the one that is in the network, and no more: memory does not grow with the images.
Threads do, because what takes the time (decoding, resizing, the networks) lets other threads run meanwhile.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cache import ImageSource, RowOutcome, digest_bytes
from stages.extraction.backbones import Backbone
from stages.extraction.decode import DecodeError, decode_image
from stages.extraction.embedder import Features, Pixels, compute, pixel_buffers, prepare
from stages.extraction.preprocess import Preprocess
from stages.extraction.threads import compute_with, own_stream
from stages.processes import processors

if TYPE_CHECKING:
    from PIL import Image

_BATCHES_AHEAD = 3
_IMAGES_A_TASK = 8

_Read = tuple[list[tuple[bytes, RowOutcome]], float]


class Held(NamedTuple):
    """An image at hand: the bytes of a file, pixels (H, W, 3) uint8 RGB, or a Pillow image."""

    content: bytes | Pixels | Image.Image

    def read(self) -> tuple[bytes | Pixels, bytes]:
        """The bytes or pixels, and the digest: of the bytes, or of the pixels with their shape."""
        if isinstance(self.content, bytes):
            return self.content, digest_bytes(self.content)
        pixels = self.content if isinstance(self.content, np.ndarray) else decode_image(self.content)
        return pixels, digest_bytes(f"pixels {pixels.shape}".encode() + pixels.tobytes())


class Batch(NamedTuple):
    """Images (B) that go through together, and the backbones that want them. A digest is ``b""`` where not known."""

    digests: Sequence[bytes]
    sources: Sequence[ImageSource | Held]
    backbones: Sequence[Backbone]


class Done(NamedTuple):
    """A batch that is through: the outcome of each image (B), and for each of its backbones the features (B, V, D).

    The features of an image that failed are NaN; the digest of one that could not be read is that of the batch.
    """

    batch: Batch
    digests: list[bytes]
    outcomes: list[RowOutcome]
    features: list[Features]


@dataclass
class Clock:
    """Seconds so far: of all readers together, of the network waiting for them and computing, and of writing."""

    reading: float = 0.0
    waiting: float = 0.0
    network: float = 0.0
    writing: float = 0.0


def flow(batches: Iterator[Batch], *, workers: int, clock: Clock, device: str = "cpu") -> Iterator[Done]:
    """Each of ``batches``, in order, once it is through all of its networks.

    On a CPU they run in the caller's thread: PyTorch's pool of threads belongs to the thread that began it, and a
    second pool would have to share the processors with it. On a GPU they run in two threads, each with a stream of its
    own, so that the pixels of one batch are on their way while another is in the network.
    """
    readers = ThreadPoolExecutor(workers, "read", initializer=compute_with, initargs=(1,))
    network = None if device == "cpu" else ThreadPoolExecutor(2, "network", initializer=own_stream, initargs=(device,))

    def begin(batch: Batch) -> Callable[[], Done]:
        size = len(batch.digests)
        inputs = pixel_buffers(batch.backbones, size)
        parts = [range(low, min(low + _IMAGES_A_TASK, size)) for low in range(0, size, _IMAGES_A_TASK)]
        read = [readers.submit(_read, batch, part, inputs) for part in parts]
        forward = partial(_forward, batch, inputs, read, clock)
        return forward if network is None else network.submit(forward).result

    try:
        ahead = deque(begin(batch) for batch in islice(batches, _BATCHES_AHEAD))
        compute_with(processors())
        while ahead:
            finished = ahead.popleft()
            ahead.extend(begin(batch) for batch in islice(batches, 1))
            yield finished()
    finally:
        for pool in filter(None, (network, readers)):
            pool.shutdown(wait=False, cancel_futures=True)


def _read(batch: Batch, part: range, inputs: Mapping[Preprocess, Pixels]) -> _Read:
    """Read, decode and resize the images of ``part`` into the rows of ``inputs``; the seconds it took."""
    started = time.perf_counter()
    outcomes = [_read_one(batch.sources[row], batch.digests[row], row, inputs) for row in part]
    return outcomes, time.perf_counter() - started


def _read_one(
    source: ImageSource | Held, digest: bytes, row: int, inputs: Mapping[Preprocess, Pixels]
) -> tuple[bytes, RowOutcome]:
    """The digest and the outcome of one image."""
    try:
        if isinstance(source, Held):
            content, actual = source.read()
            return actual, prepare(content, actual, None, row, inputs)
        file = source.read()
    except OSError as error:
        return digest, RowOutcome("unread", error=f"cannot be read: {error.strerror or error}")
    except DecodeError as error:
        return digest, RowOutcome("failed", error=str(error))
    actual = source.digest(file)
    if digest not in (b"", actual):
        return digest, RowOutcome("unread", error="changed while the run was going on")
    return actual, prepare(file, actual, source.box, row, inputs)


def _forward(batch: Batch, inputs: Mapping[Preprocess, Pixels], parts: Sequence[Future[_Read]], clock: Clock) -> Done:
    started = time.perf_counter()
    read = [part.result() for part in parts]
    begun = time.perf_counter()
    images = [image for part, _ in read for image in part]
    outcomes = [outcome for _, outcome in images]
    good = np.array([outcome.status == "ok" for outcome in outcomes])
    features = compute(batch.backbones, inputs, good)
    clock.reading += sum(seconds for _, seconds in read)
    clock.waiting += begun - started
    clock.network += time.perf_counter() - begun
    return Done(batch, [digest for digest, _ in images], outcomes, features)
