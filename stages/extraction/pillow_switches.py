"""Pillow's switches of the process that change which pixels come out, or whether any do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

MOST_PIXELS = 178_956_970
"""An image of more pixels may be a bomb, and is refused by its header."""

_lock = threading.Lock()
_decoding = 0
_theirs: list[tuple[ModuleType, str, Any, Any]] = []
"""Module, name, what others had set, and what is set meanwhile: of the switches to put back."""


def _ours() -> list[tuple[ModuleType, str, Any]]:
    from PIL import GifImagePlugin, Image, ImageFile

    return [
        (ImageFile, "LOAD_TRUNCATED_IMAGES", False),  # a cut file is a failed image, not a grey one
        (Image, "MAX_IMAGE_PIXELS", MOST_PIXELS // 2),  # Pillow refuses twice as many
        (GifImagePlugin, "LOADING_STRATEGY", GifImagePlugin.LoadingStrategy.RGB_AFTER_FIRST),
    ]


@contextmanager
def own_switches() -> Iterator[None]:
    """Around a decode, in any thread: the same pixels in any process.

    The first of several threads sets the switches that others have set otherwise, and the last one puts them back,
    unless somebody has set them anew meanwhile. Whoever decodes with Pillow in another thread shares them.
    """
    global _decoding
    with _lock:
        if not _decoding:
            for module, name, wanted in _ours():
                if (value := getattr(module, name)) != wanted:
                    _theirs.append((module, name, value, wanted))
                    setattr(module, name, wanted)
        _decoding += 1
    try:
        yield
    finally:
        with _lock:
            _decoding -= 1
            while not _decoding and _theirs:
                module, name, value, wanted = _theirs.pop()
                if getattr(module, name) == wanted:
                    setattr(module, name, value)
