"""The service on a port: one process, ended by Ctrl-C or SIGTERM once what is asked is answered."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from contextlib import suppress

import uvicorn
from fastapi import FastAPI
from threadpoolctl import threadpool_limits
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

_HEADER_SECONDS = 10.0
_IDLE_SECONDS = 75  # of a connection between two requests
_LAST_SECONDS = 10  # for what is being answered when the service is ended


class _InTime(H11Protocol):
    """Closes a connection whose request has not begun within some seconds, one that sends a byte now and then too.

    What is written is sent at once: asyncio sees to that only where the listening socket names its protocol, and a body
    that waits until its header is acknowledged is 40 ms late.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._answering():
            self._expect()

    def handle_events(self) -> None:
        super().handle_events()
        if self._answering():
            self._expect_nothing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def _answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _expect(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(_HEADER_SECONDS, self._close)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()


def server_of(app: FastAPI) -> uvicorn.Server:
    """The server of ``app``, not started. It logs no request: a path holds the keys of images."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=_InTime,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    return uvicorn.Server(config)


def run(server: uvicorn.Server, listening: socket.socket) -> None:
    """Serve until Ctrl-C or SIGTERM, then answer what was asked and return.

    Products of NumPy take one thread: those of a second spin while others answer, a batch of 8 over 100,000 rows takes
    12 ms of CPU with two and 5 with one, and requests that come meanwhile have a processor.
    """
    signal.set_wakeup_fd(-1)  # the command line would leave at once
    with suppress(KeyboardInterrupt), threadpool_limits(1, user_api="blas"):
        server.run(sockets=[listening])
