"""Settings of the process that change numbers or pixels: set while we compute, and put back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MOST_PIXELS = 178_956_970  # an image of more pixels may be a bomb, and is refused by its header


class Switches:
    """Settings that threads hold together who want the same; others wait. The last puts back what the first found."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holders = 0
        self._wanted: object = None
        self._restore: Callable[[], object] = lambda: None

    @contextmanager
    def hold(self, wanted: object, write: Callable[[], Callable[[], object]]) -> Iterator[None]:
        """Keep the settings that ``wanted`` stands for: ``write`` makes them, and returns what puts back the old."""
        with self._changed:
            self._changed.wait_for(lambda: not self._holders or self._wanted == wanted)
            if not self._holders:
                self._wanted, self._restore = wanted, write()
            self._holders += 1
        try:
            yield
        finally:
            with self._changed:
                self._holders -= 1
                if not self._holders:
                    self._restore()
                    self._changed.notify_all()


_of_pillow = Switches()


@contextmanager
def own_switches() -> Iterator[None]:
    """Around a decode with Pillow, in any thread: the same pixels in any process. What is set meanwhile stays."""
    with _of_pillow.hold("pillow", _set_those_of_pillow):
        yield


def _set_those_of_pillow() -> Callable[[], object]:
    from PIL import GifImagePlugin, Image, ImageFile

    ours = [
        (ImageFile, "LOAD_TRUNCATED_IMAGES", False),  # a cut file is a failed image, not a grey one
        (Image, "MAX_IMAGE_PIXELS", MOST_PIXELS // 2),  # Pillow refuses twice as many
        (GifImagePlugin, "LOADING_STRATEGY", GifImagePlugin.LoadingStrategy.RGB_AFTER_FIRST),
    ]
    theirs = [getattr(module, name) for module, name, _ in ours]
    for module, name, wanted in ours:
        setattr(module, name, wanted)

    def restore() -> None:
        for (module, name, wanted), value in zip(ours, theirs, strict=True):
            if getattr(module, name) == wanted:
                setattr(module, name, value)

    return restore
