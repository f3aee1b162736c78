"""Images through frozen networks: read, decoded and resized ahead on threads, each image once for all backbones.

::

    digests, sources (B) --readers--> pixels (B, V, S, S, 3) a preprocessing --network--> features (B, V, D) a backbone

A few batches are prepared ahead of the one that is in the network, and no more: memory does not grow with the images.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cache import ImageSource, RowOutcome, digest_bytes
from stages.device import compute_with, own_stream
from stages.extraction.backbones import Backbone
from stages.extraction.backbones.frozen import Network
from stages.extraction.decode import DecodeError, decode_image
from stages.extraction.embedder import Features, Pixels, compute, memory_limit, pixel_buffers, prepare
from stages.extraction.preprocess import Preprocess
from stages.processes import processors

if TYPE_CHECKING:
    from PIL import Image

_BATCHES_AHEAD = 3
_IMAGES_A_TASK = 8
_SIDE_BY_SIDE = 4  # batches in the networks of a CPU: each holds its activations
_ROUNDS_ALIKE = 16  # from so many images on, PyTorch rounds them alike on any number of threads
_SHORT, _ENOUGH = 0.65, 0.8  # of the processors: alone it gets nine tenths of two, beside one busy process six tenths
_SECONDS = 3.0

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
    """A batch that is through: digests and outcomes of the images (B), and features (B, V, D) of each backbone."""

    batch: Batch
    digests: list[bytes]
    outcomes: list[RowOutcome]
    features: list[Features]


class _Begun(NamedTuple):
    """A batch whose images are being read, in parts, into the rows of ``inputs``."""

    batch: Batch
    inputs: Mapping[Preprocess, Pixels]
    parts: Sequence[Future[_Read]]

    def rounds_alike(self) -> bool:
        """Whether its features are known to be the same on any number of threads; waits until the images are read.

        They are not of few images, which a network that is short of memory is given too, nor of one that is compiled.
        """
        readable = sum(outcome.status == "ok" for part in self.parts for _, outcome in part.result()[0])
        return readable >= _ROUNDS_ALIKE and all(
            isinstance(backbone.forward, Network)
            and not backbone.identity.fields.get("compiled")
            and memory_limit(backbone.forward) is None
            for backbone in self.batch.backbones
        )


@dataclass
class Clock:
    """Seconds of all readers, of the network waiting and computing, and of writing; and the pace of each worker."""

    reading: float = 0.0
    waiting: float = 0.0
    network: float = 0.0
    writing: float = 0.0
    workers: dict[str, Pace] = field(default_factory=dict)

    @property
    def seconds(self) -> tuple[float, float, float, float]:
        """Of reading, waiting, the network and writing."""
        return self.reading, self.waiting, self.network, self.writing

    def add(self, reading: float, waiting: float, network: float, writing: float) -> None:
        """Go on by so many seconds of each."""
        self.reading += reading
        self.waiting += waiting
        self.network += network
        self.writing += writing


class Pace(NamedTuple):
    """The images of one worker so far, the seconds since it began, and its own clock."""

    images: int
    seconds: float
    clock: Clock


def flow(
    batches: Iterator[Batch],
    *,
    workers: int,
    clock: Clock,
    device: str = "cpu",
    short: Callable[[], bool] | None = None,
) -> Iterator[Done]:
    """Each of ``batches``, in order, once it is through all of its networks.

    On a CPU all processors compute one batch together, in the caller's thread. Beside other work they would wait for
    the slowest of them after every layer: while the process is ``short`` of processors, each takes a batch of its own.
    Both give the same bits. On a GPU batches are in two threads, each with a stream of its own, so that the pixels of
    one batch are on their way while another is in the network.
    """
    readers = ThreadPoolExecutor(workers, "read", initializer=compute_with, initargs=(1,))
    on_cpu, side_by_side = device == "cpu", min(processors(), _SIDE_BY_SIDE)
    short = short or Shortage()
    network = ThreadPoolExecutor(side_by_side if on_cpu else 2, "network", own_stream, (device,))

    def begin(batch: Batch) -> _Begun:
        size = len(batch.digests)
        inputs = pixel_buffers(batch.backbones, size)
        parts = [range(low, min(low + _IMAGES_A_TASK, size)) for low in range(0, size, _IMAGES_A_TASK)]
        return _Begun(batch, inputs, [readers.submit(_read, batch, part, inputs) for part in parts])

    def forward(begun: _Begun, threads: int) -> Done:
        if on_cpu:
            compute_with(threads)
        return _forward(begun, clock)

    def apart(begun: _Begun) -> bool:
        return not on_cpu or (side_by_side > 1 and short() and begun.rounds_alike())

    running: deque[Future[Done]] = deque()
    try:
        ahead = deque(begin(batch) for batch in islice(batches, _BATCHES_AHEAD))
        while ahead or running:
            while ahead and apart(ahead[0]):
                running.append(network.submit(forward, ahead.popleft(), processors() // side_by_side))
            finished = running.popleft().result if running else partial(forward, ahead.popleft(), processors())
            room = _BATCHES_AHEAD + (side_by_side if on_cpu and running else 0)
            ahead.extend(begin(batch) for batch in islice(batches, max(0, room - len(ahead) - len(running))))
            yield finished()
    finally:
        for pool in (network, readers):
            pool.shutdown(wait=False, cancel_futures=True)


class Shortage:
    """Whether the process gets too little of its processors, by its ``own`` time over the last seconds.

    It begins below two thirds of them and ends above four fifths. Threads that wait for each other count as computing.
    """

    def __init__(
        self, wall: Callable[[], float] = time.perf_counter, own: Callable[[], float] = time.process_time
    ) -> None:
        self._wall, self._own = wall, own
        self._since = wall(), own()
        self._short = False

    def __call__(self) -> bool:
        """Whether it was so over the last three seconds or more."""
        wall, own = self._wall(), self._own()
        seconds = wall - self._since[0]
        if seconds > _SECONDS:
            least = _ENOUGH if self._short else _SHORT
            self._short = own - self._since[1] < least * processors() * seconds
            self._since = wall, own
        return self._short


def _read(batch: Batch, part: range, inputs: Mapping[Preprocess, Pixels]) -> _Read:
    """Read, decode and resize the images of ``part`` into the rows of ``inputs``; the seconds it took."""
    started = time.perf_counter()
    outcomes = [_read_one(batch.sources[row], batch.digests[row], row, inputs) for row in part]
    return outcomes, time.perf_counter() - started


def _read_one(
    source: ImageSource | Held, digest: bytes, row: int, inputs: Mapping[Preprocess, Pixels]
) -> tuple[bytes, RowOutcome]:
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


def _forward(begun: _Begun, clock: Clock) -> Done:
    started = time.perf_counter()
    read = [part.result() for part in begun.parts]
    ready = time.perf_counter()
    images = [image for part, _ in read for image in part]
    outcomes = [outcome for _, outcome in images]
    good = np.array([outcome.status == "ok" for outcome in outcomes])
    features = compute(begun.batch.backbones, begun.inputs, good)
    clock.reading += sum(seconds for _, seconds in read)
    clock.waiting += ready - started
    clock.network += time.perf_counter() - ready
    return Done(begun.batch, [digest for digest, _ in images], outcomes, features)
