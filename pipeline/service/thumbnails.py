"""Small pictures of gallery images, made in a thread of their own; those asked for last stay in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from cache import digest_bytes
from pipeline.service.batching import Batcher
from pipeline.service.gallery import Source
from pipeline.service.metrics import Metrics
from pipeline.service.refused import Refused
from pipeline.views.thumbnails import small_jpeg

_WAITING = 512
_BYTES = 32 * 2**20  # of the pictures in memory


class Picture(NamedTuple):
    """A JPEG, and a tag that differs where it does."""

    content: bytes
    tag: str


class Thumbnails:
    """Makes the pictures that are asked for."""

    def __init__(self, metrics: Metrics) -> None:
        self._made: OrderedDict[tuple[bytes, int], Picture] = OrderedDict()
        self._size = 0
        self._making = Batcher(
            _make, capacity=_WAITING, largest=8, on_batch=metrics.watch("pictures", lambda: len(self._making))
        )

    async def picture(self, source: Source, side: int) -> Picture:
        """The picture of the image at ``source``, of ``side`` pixels at most. Raises Refused where there is none."""
        place = source.digest, side
        if place in self._made:
            self._made.move_to_end(place)
            return self._made[place]
        picture = await self._making.ask((source, side))
        if place not in self._made:
            self._made[place] = picture
            self._size += len(picture.content)
        while self._size > _BYTES:
            _, oldest = self._made.popitem(last=False)
            self._size -= len(oldest.content)
        return picture

    def close(self) -> None:
        """Make none any longer."""
        self._making.close()


def _make(wanted: Sequence[tuple[Source, int]]) -> list[Picture | Exception]:
    return [_made(*each) for each in wanted]


def _made(source: Source, side: int) -> Picture | Exception:
    content = source.thumbnail(source.digest)
    if content is None:
        made = small_jpeg(source.uri, side)
        if isinstance(made, str):
            return Refused(404, "no_picture", f"there is no picture of this image: it {made}")
        content = made.content
    return Picture(content, f'"{digest_bytes(content).hex()[:16]}"')
