"""The small pictures of a bundle, a JPEG file for each different image, named by its digest."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from cache import Storage
from pipeline.bundle.layout import THUMBNAILS, thumbnail_key
from pipeline.views.thumbnails import small_jpeg
from stages.processes import processors

SIDE = 256
"""Pixels of the longer side."""


def write_thumbnails(
    bundle: Storage, rows: pa.Table, on_progress: Callable[[int, int, str], None] = lambda *_: None
) -> list[str]:
    """Write the pictures of ``rows`` that are not there yet, and return why there is none of the others."""
    uris = dict(zip(rows["digest"].to_pylist(), rows["uri"].to_pylist(), strict=True))
    present = {*bundle.list(f"{THUMBNAILS}/")}
    wanted = [(digest, uri) for digest, uri in uris.items() if thumbnail_key(digest) not in present]

    def write(image: tuple[bytes, str]) -> str:
        digest, uri = image
        picture = small_jpeg(uri, SIDE)
        if isinstance(picture, str):
            return f"{uri}: {picture}"
        bundle.put_new(thumbnail_key(digest), picture.content)
        return ""

    problems = []
    with ThreadPoolExecutor(processors()) as threads:  # Pillow decodes outside the interpreter's lock
        for done, problem in enumerate(threads.map(write, wanted), 1):
            problems += [problem] if problem else []
            on_progress(done, len(wanted), "")
    return problems
