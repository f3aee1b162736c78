"""A small gallery to serve, made in memory: drawn pictures and two heads that are projections of their pixels."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
from fastapi import FastAPI
from PIL import Image

from cache import digest_bytes
from pipeline.searcher import Searcher
from pipeline.service.gallery import Gallery, ServedHead
from pipeline.service.server import server_of
from stages.extraction import Embedder, PcaBasis, PcaConfig, load_backbone
from stages.ranking import unit_length
from stages.retrieval import GalleryIndex
from tests.pictures import draw

COLOURS = ("red", "green", "blue")
SIDE, DIM = 8, 6


def embedder(head: Any = None) -> Embedder:
    """Six fixed projections of an image's pixels."""
    rows = np.random.default_rng(0).normal(size=(DIM, SIDE * SIDE * 3)).astype(np.float32)
    basis = PcaBasis(np.full(SIDE * SIDE * 3, 0.5, np.float32), rows)
    return Embedder([load_backbone(PcaConfig(dim=DIM, size=SIDE), basis=basis)], head=head)


def first_three(features: Any) -> Any:
    """A head that keeps half of the feature."""
    return unit_length(features[:, : DIM // 2])


def draw_gallery(folder: Path, count: int = 30) -> list[str]:
    """Draw ``count`` pictures below ``folder``; their keys, which hold slashes and spaces."""
    keys = [f"class {number % 5}/{number}.png" for number in range(count)]
    for number, key in enumerate(keys):
        draw(folder / key, number)
    return keys


def gallery_of(
    folder: Path,
    keys: list[str],
    *,
    snapshot: str = "first",
    thresholds: dict[str, float] | None = None,
    words: bool = False,
) -> Gallery:
    """The pictures of ``keys`` with a label, a colour, and two heads, ``half`` before ``raw``.

    With ``words`` both take text, and any is like the first picture.
    """
    contents = [(folder / key).read_bytes() for key in keys]
    table = pa.table(
        {
            "key": keys,
            "label": [key.partition("/")[0] for key in keys],
            "uri": [str(folder / key) for key in keys],
            "digest": [digest_bytes(content) for content in contents],
            "attributes.colour": [COLOURS[number % 3] for number in range(len(keys))],
        }
    )
    heads = []
    for name, head in (("half", first_three), ("raw", None)):
        model = embedder(head)
        vectors = unit_length(model.embed(contents).vectors)
        index, first = GalleryIndex.build(vectors, keys, name), vectors[:1]
        searcher = Searcher(model, index, table, thresholds=thresholds, text=partial(_like, first) if words else None)
        heads.append(ServedHead("pixels", name, searcher, "mmp@5 0.500"))
    return Gallery(snapshot, tuple(heads), no_thumbnail)


def _like(first: Any, sentences: Any) -> Any:
    return np.repeat(first, len(sentences), axis=0)


def no_thumbnail(_: bytes) -> None:
    """There is none."""


def picture(kind: str = "PNG", size: tuple[int, int] = (20, 16), colour: str = "red") -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


def client_of(app: FastAPI, address: str = "http://127.0.0.1", **settings: Any) -> httpx.AsyncClient:
    """Asks ``app`` in this process."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=address, timeout=120, **settings)


def ask(app: FastAPI, method: str, path: str, **settings: Any) -> httpx.Response:
    """One request to ``app``, in this process."""

    async def once() -> httpx.Response:
        async with client_of(app) as client:
            return await client.request(method, path, **settings)

    return asyncio.run(once())


@contextmanager
def on_port(app: FastAPI) -> Iterator[str]:
    """``app`` on a free port of this machine, in a thread: its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = server_of(app)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
