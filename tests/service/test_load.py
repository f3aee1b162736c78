"""Many clients at once, on a port: every request is answered or refused, also while snapshots are swapped."""

from __future__ import annotations

import asyncio
import itertools
import random
import resource
import socket
from collections import Counter
from functools import partial
from pathlib import Path

import httpx
import pytest

from pipeline.service import server
from pipeline.service.app import create_app
from pipeline.service.gallery import Gallery
from pipeline.service.limits import Limits
from pipeline.service.snapshots import Snapshots, file_version
from tests.service.serving import draw_gallery, gallery_of, on_port, picture

CLIENTS = 200
with_their_sockets = pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 1024,
    reason="two hundred clients and the service in one process need more open files",
)


async def ask_at_once(address: str, rounds: int, keys: list[str]) -> list[httpx.Response]:
    """The answers to ``CLIENTS`` clients with a connection each, half with images and half with keys."""
    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as client:

        async def one(number: int) -> list[httpx.Response]:
            answers = []
            for _ in range(rounds):
                if number % 2:
                    answers.append(await client.post("/search", params={"k": 3}, content=picture()))
                else:
                    answers.append(await client.get("/search", params={"k": 3, "key": random.choice(keys)}))
            return answers

        return list(itertools.chain(*await asyncio.gather(*(one(number) for number in range(CLIENTS)))))


def test_an_answer_does_not_wait_until_its_header_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets: list[socket.socket] = []

    class Seen(server._InTime):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            sockets.append(transport.get_extra_info("socket"))

    monkeypatch.setattr(server, "_InTime", Seen)
    keys = draw_gallery(tmp_path)
    gallery = gallery_of(tmp_path, keys)
    with on_port(create_app(Snapshots(lambda: gallery, on_change=print))) as address, httpx.Client() as client:
        assert client.get(f"{address}/healthz").status_code == 200
        assert [bool(made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) for made in sockets] == [True]


@with_their_sockets
def test_two_hundred_clients_are_answered_or_refused_with_a_time_to_come_again(tmp_path: Path) -> None:
    keys = draw_gallery(tmp_path)
    gallery = gallery_of(tmp_path, keys)
    app = create_app(Snapshots(lambda: gallery, on_change=print), limits=Limits(queue=8))
    with on_port(app) as address:
        answers = asyncio.run(ask_at_once(address, 2, keys))
    counts = Counter(answer.status_code for answer in answers)
    assert sum(counts.values()) == 2 * CLIENTS
    assert set(counts) <= {200, 503}
    assert counts[200] >= CLIENTS  # of keys none is refused
    for answer in answers:
        if answer.status_code == 503:
            assert answer.json()["error"]["code"] == "busy"
            assert int(answer.headers["retry-after"]) >= 1
        else:
            assert len(answer.json()["results"][0]["matches"]) == 3


@with_their_sockets
def test_snapshots_are_swapped_while_everybody_asks_and_nothing_is_dropped(tmp_path: Path) -> None:
    keys = draw_gallery(tmp_path)
    names = itertools.count()
    pointer = tmp_path / "current.json"
    pointer.write_text("0")

    def opened() -> Gallery:
        return gallery_of(tmp_path, keys[: 20 + 2 * (next(names) % 5)], snapshot=pointer.read_text())

    snapshots = Snapshots(opened, partial(file_version, pointer), on_change=print, seconds=0.01)
    app = create_app(snapshots, limits=Limits(queue=2 * CLIENTS))

    async def swap_meanwhile(address: str) -> list[httpx.Response]:
        asking = asyncio.ensure_future(ask_at_once(address, 2, keys[:20]))
        number = 0
        while not asking.done():
            number += 1
            other = tmp_path / "other.json"
            other.write_text(f"{number}")
            other.replace(pointer)
            await asyncio.sleep(0.05)
        return await asking

    with on_port(app) as address:
        answers = asyncio.run(swap_meanwhile(address))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["snapshot"] for answer in answers}) > 1
    assert all(len(answer.json()["results"][0]["matches"]) == 3 for answer in answers)


def test_a_connection_without_a_request_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_HEADER_SECONDS", 0.2)
    keys = draw_gallery(tmp_path, 3)
    app = create_app(Snapshots(lambda: gallery_of(tmp_path, keys), on_change=print))
    with on_port(app) as address:
        place = httpx.URL(address)
        for beginning in (b"", b"GET /healthz HTTP/1.1\r\nHost: local"):
            with socket.create_connection((str(place.host), int(place.port or 0)), timeout=30) as connection:
                connection.sendall(beginning)
                assert connection.recv(100) == b""
        assert httpx.get(f"{address}/healthz").json() == {"status": "ok"}
