"""The small pictures of a bundle, a JPEG file for each different image, named by its digest."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from cache.atomic import replace_bytes
from pipeline.bundle.layout import thumbnail_path
from pipeline.views.thumbnails import small_jpeg
from stages.processes import processors

SIDE = 256
"""Pixels of the longer side."""


def write_thumbnails(
    bundle: Path, rows: pa.Table, on_progress: Callable[[int, int, str], None] = lambda *_: None
) -> list[str]:
    """Write the pictures of ``rows`` that are not there yet, and return why there is none of the others."""
    uris = dict(zip(rows["digest"].to_pylist(), rows["uri"].to_pylist(), strict=True))
    wanted = [(digest, uri) for digest, uri in uris.items() if not thumbnail_path(bundle, digest).exists()]

    def write(image: tuple[bytes, str]) -> str:
        digest, uri = image
        picture = small_jpeg(uri, SIDE)
        if isinstance(picture, str):
            return f"{uri}: {picture}"
        replace_bytes(thumbnail_path(bundle, digest), picture.content)
        return ""

    problems = []
    with ThreadPoolExecutor(processors()) as threads:  # Pillow decodes outside the interpreter's lock
        for done, problem in enumerate(threads.map(write, wanted), 1):
            problems += [problem] if problem else []
            on_progress(done, len(wanted), "")
    return problems
