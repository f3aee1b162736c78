"""Around every request: who may ask, what a browser may do with the answer, and what is counted for Prometheus."""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.service.limits import Refused

COOKIE = "permafrost"
_OPEN = frozenset({"/", "/healthz", "/readyz", "/page.css", "/page.js", "/favicon.svg"})
"""Paths that hold nothing of the gallery: asked for without a token."""

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one service.

    >>> metrics = Metrics()
    >>> metrics.answered("/search", 200, 0.01)
    >>> b'permafrost_requests_total{route="/search",status="200"} 1.0' in metrics.text()
    True
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("permafrost_requests", "Requests answered.", ["route", "status"], registry=registry)
        self._seconds = Histogram(
            "permafrost_request_seconds", "Seconds to an answer.", ["route"], buckets=_SECONDS, registry=registry
        )
        self._batches = Histogram(
            "permafrost_batch_size", "Requests that shared a batch.", ["queue"], buckets=_SIZES, registry=registry
        )
        self._waiting = Gauge("permafrost_waiting", "Requests that wait in a queue.", ["queue"], registry=registry)
        self.rows = Gauge("permafrost_gallery_images", "Images of the gallery that is served.", registry=registry)
        self._snapshots = Counter(
            "permafrost_snapshots", "Newer snapshots that were opened or refused.", ["outcome"], registry=registry
        )

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def snapshot(self, outcome: str) -> None:
        """Count a newer snapshot that was ``opened`` or ``refused``."""
        self._snapshots.labels(outcome).inc()

    def watch(self, queue: str, waiting: Callable[[], int]) -> Callable[[int], None]:
        """Report the length of a ``queue``; call what is returned with the size of each of its batches."""
        self._waiting.labels(queue).set_function(waiting)
        return self._batches.labels(queue).observe

    def text(self) -> bytes:
        """All of it in the text format of Prometheus."""
        return generate_latest(self._registry)


def is_loopback(host: str) -> bool:
    """Whether ``host``, a name or an address, is this machine and nobody else's.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def session_of(token: str) -> str:
    """What the cookie of the page holds: it follows from ``token``, which does not follow from it."""
    return hmac.new(token.encode(), b"permafrost session", sha256).hexdigest()


def refusal(error: Refused) -> JSONResponse:
    """The answer that says ``error``."""
    body = {"error": {"code": error.code, "message": error.message}}
    return JSONResponse(body, error.status, error.headers)


class Guard:
    """An ASGI application around another one, that answers those alone who may ask.

    With a ``token`` it is wanted of every request for more than the page itself, in the header ``Authorization: Bearer
    TOKEN`` or as the cookie that ``/session`` sets. Without one the service is of this machine alone, and asked for
    under its names alone: else a page from elsewhere could give its own name this address, and read the answers.
    """

    def __init__(self, app: ASGIApp, token: str | None, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._token = None if token is None else token.encode()
        self._session = None if token is None else session_of(token).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            if (refused := self._refused(scope)) is not None:
                await refusal(refused)(scope, receive, send_guarded)
            else:
                await self._app(scope, receive, send_guarded)
        finally:
            route = str(getattr(scope.get("route"), "path", "other"))
            self._metrics.answered(route, status, time.perf_counter() - began)

    def _refused(self, scope: Scope) -> Refused | None:
        headers = Headers(scope=scope)
        if self._token is None:
            return _elsewhere(headers)
        if scope["path"] in _OPEN or self._knows_token(headers):
            return None
        message = "this service wants its token: Authorization: Bearer TOKEN, or open the page with #token=TOKEN"
        return Refused(401, "no_token", message, {"WWW-Authenticate": "Bearer"})

    def _knows_token(self, headers: Mapping[str, str]) -> bool:
        assert self._token is not None
        assert self._session is not None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), self._session)


def _elsewhere(headers: Mapping[str, str]) -> Refused | None:
    """Why a request without token is not of this machine; None where it is."""
    for name in (name for name in ("host", "origin") if name in headers):
        try:
            host = urlsplit(headers[name] if name == "origin" else f"//{headers[name]}").hostname
        except ValueError:
            host = None
        if not is_loopback(host or ""):
            message = f"without a token this service answers this machine alone; the header {name} names another"
            return Refused(403, "other_host", message)
    return None
