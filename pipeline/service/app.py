"""The HTTP service: routes, and what they take and give. Every error is ``{"error": {"code": ..., "message": ...}}``.

::

    image ──limits──> queue ──batches──> network ──┐
    key ─────────────────────> stored vector ──────┴─> queue ──batches──> index ──> matches of each head

Both queues are bounded, and each is emptied by one thread. The event loop computes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from importlib.resources import files
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from cache import digest_bytes
from pipeline.service import gallery as served
from pipeline.service.batching import Batcher
from pipeline.service.gallery import Gallery, ServedHead, Upload, Vector, filters_of
from pipeline.service.guard import COOKIE, Guard, Metrics, refusal, session_of
from pipeline.service.limits import IMAGE_FIELD, ErrorAnswer, Limits, Refused, read_image
from pipeline.service.snapshots import Snapshots

_SEARCHES, _PICTURES = 1_024, 512  # that may wait: a search takes about a millisecond

_IMAGE_BODY = {
    "requestBody": {
        "description": "The bytes of an image, or a form with it; left out where a key or a text is searched for.",
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {IMAGE_FIELD: {"type": "string", "format": "binary"}}}
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 401, 403, 404, 405, 408, 413, 415, 422, 503)
}


class Chosen(BaseModel, extra="forbid"):
    """Which heads, and what is searched for where no image is sent."""

    key: str | None = Field(None, min_length=1, max_length=4096, description="An image of the gallery, by its key.")
    text: str | None = Field(None, min_length=1, max_length=1000, description="Words, where the gallery takes them.")
    head: list[str] = Field([], max_length=100, description="Heads by name; the best by default, * for all.")


class Search(Chosen):
    """A search."""

    k: int = Field(10, ge=1, le=Limits.max_k, description="Matches in the answer.")
    fmr: float | None = Field(
        None, gt=0, lt=1, description="Only matches, by the threshold kept for this FMR; not with text."
    )
    offset: int = Field(0, ge=0, le=Limits.max_depth - Limits.max_k, description="Matches to leave out before them.")
    where: list[str] = Field(
        [],
        max_length=100,
        description="name=value: label, domain or an attribute. Values of one name are alternatives.",
    )


class MatchAnswer(BaseModel):
    """One gallery image."""

    rank: int
    key: str
    similarity: float
    label: str | None
    domain: str | None
    attributes: dict[str, str | None]
    image: str


class HeadAnswer(BaseModel):
    """The matches by one head, best first."""

    head: str
    matches: list[MatchAnswer]
    more: bool


class SearchAnswer(BaseModel):
    """The matches by each head that was chosen."""

    snapshot: str
    results: list[HeadAnswer]


class VectorAnswer(BaseModel):
    """The embedding by one head, of unit length."""

    head: str
    vector: list[float]


class EmbedAnswer(BaseModel):
    """The embedding by each head that was chosen."""

    snapshot: str
    results: list[VectorAnswer]


def create_app(
    snapshots: Snapshots, *, limits: Limits = Limits(), token: str | None = None, metrics: Metrics | None = None
) -> FastAPI:
    """The service of ``snapshots``, an ASGI application."""
    metrics = metrics or Metrics()
    service = _Service(snapshots, limits, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="Permafrost",
        version=metadata.version("permafrost-retrieval"),
        summary="Images that are like an image, a key or a text.",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        responses=_ERRORS,
    )
    app.state.close = service.close
    app.add_middleware(Guard, token=token, metrics=metrics)
    app.add_exception_handler(Refused, lambda _, error: refusal(error))
    app.add_exception_handler(RequestValidationError, _invalid)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _http_error)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, _broken)

    @app.get("/search", response_model=SearchAnswer)
    async def search(wanted: Annotated[Search, Query()]) -> Response:
        """Gallery images that are like one of the gallery, or like a text."""
        return await service.search(wanted, None)

    @app.post("/search", response_model=SearchAnswer, openapi_extra=_IMAGE_BODY)
    async def search_image(request: Request, wanted: Annotated[Search, Query()]) -> Response:
        """Gallery images that are like an image, which is sent."""
        return await service.search(wanted, request)

    @app.post("/embed", response_model=EmbedAnswer, openapi_extra=_IMAGE_BODY)
    async def embed(request: Request, wanted: Annotated[Chosen, Query()]) -> Response:
        """The embedding of an image, which is sent, of a gallery image or of a text."""
        gallery, heads, vectors = await service.vectors(wanted, request)
        results = [{"head": head.name, "vector": vector.tolist()} for head, vector in zip(heads, vectors, strict=True)]
        return JSONResponse({"snapshot": gallery.snapshot, "results": results})

    @app.get("/images/{key:path}", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}})
    async def image(key: str, request: Request, side: Literal["128", "256", "512"] = "256") -> Response:
        """A small picture of a gallery image."""
        picture = await service.picture(key, int(side))
        tag = f'"{digest_bytes(picture).hex()[:16]}"'
        headers = {"ETag": tag, "Cache-Control": "private, max-age=3600"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(picture, media_type="image/jpeg", headers=headers)

    @app.get("/gallery")
    async def gallery() -> dict[str, Any]:
        """The heads, the filters and their values, some keys, and what an upload may have."""
        limits_of = {"bytes": limits.max_bytes, "pixels": limits.max_pixels, "k": limits.max_k}
        return snapshots.current.described | {"limits": limits_of}

    @app.post("/session", status_code=204, response_class=Response)
    async def session(request: Request) -> Response:
        """Set the cookie with which a browser may ask without sending the token again."""
        response = Response(status_code=204)
        if token is not None:
            secure = request.url.scheme == "https"
            response.set_cookie(COOKIE, session_of(token), httponly=True, samesite="strict", secure=secure)
        return response

    @app.get("/healthz")
    async def healthz() -> dict[str, Literal["ok"]]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str | None]:
        """A snapshot is served; ``refused`` says why a newer one is not."""
        return {"status": "ready", "snapshot": snapshots.current.snapshot, "refused": snapshots.refused}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def measured() -> Response:
        """What was counted, in the text format of Prometheus."""
        metrics.rows.set(len(snapshots.current))
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    for path, (content, media_type) in _page_files().items():
        app.add_api_route(path, _file(content, media_type), include_in_schema=False)
    return app


class _Service:
    """The queues, and how a request goes through them."""

    def __init__(self, snapshots: Snapshots, limits: Limits, metrics: Metrics) -> None:
        self._snapshots, self._limits = snapshots, limits
        self._embedding = Batcher(served.embed, capacity=limits.queue, largest=limits.batch)
        self._searching = Batcher(served.find, capacity=_SEARCHES, largest=limits.batch)
        self._pictures = Batcher(served.pictures, capacity=_PICTURES, largest=8)
        self._queues: list[Batcher[Any, Any]] = [self._embedding, self._searching, self._pictures]
        for name, queue in zip(("images", "searches", "pictures"), self._queues, strict=True):
            queue.on_batch = metrics.watch(name, queue.__len__)

    def close(self) -> None:
        self._snapshots.close()
        for queue in self._queues:
            queue.close()

    async def search(self, wanted: Search, request: Request | None) -> Response:
        if wanted.fmr is not None and wanted.text is not None:
            message = "an fmr was measured on pairs of images, and is not known for words: leave fmr out, and compare "
            raise Refused(422, "no_threshold", message + "the similarities with a number of your own")
        filters = filters_of(wanted.where)
        gallery, heads, vectors = await self.vectors(wanted, request)
        queries = [
            served.Query(head, vector, wanted.k, wanted.offset, filters, wanted.key, head.least(wanted.fmr))
            for head, vector in zip(heads, vectors, strict=True)
        ]
        async with self._in_time():
            results = await asyncio.gather(*(self._searching.ask(query) for query in queries))
        return JSONResponse({"snapshot": gallery.snapshot, "results": results})

    async def vectors(
        self, wanted: Chosen, request: Request | None
    ) -> tuple[Gallery, tuple[ServedHead, ...], list[Vector]]:
        """The gallery as it is now, the heads that are wanted, and the vector to search each of them with."""
        gallery = self._snapshots.current
        heads = gallery.chosen(wanted.head, for_text=wanted.text is not None and wanted.key is None)
        sent = request is not None and _has_body(request)
        if (wanted.key is not None) + (wanted.text is not None) + sent != 1:
            raise Refused(422 if request is None else 400, "one_query", "give one of an image, a key and a text")
        if wanted.key is not None:
            return gallery, heads, gallery.vectors_of(wanted.key, heads)
        content: bytes | str | None = wanted.text
        if request is not None and content is None:
            content = await read_image(request, self._limits)
        assert content is not None
        async with self._in_time():
            by_head = await self._embedding.ask(Upload(content, heads, self._limits))
        return gallery, heads, [by_head[head] for head in heads]

    async def picture(self, key: str, side: int) -> bytes:
        async with self._in_time():
            return await self._pictures.ask((self._snapshots.current, key, side))

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._limits.answer_seconds):
                yield
        except TimeoutError:
            message = f"no answer within {self._limits.answer_seconds:g} s; ask again later"
            raise Refused(503, "slow", message, {"Retry-After": "10"}) from None


def _has_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


def _page_files() -> dict[str, tuple[bytes, str]]:
    """The page: what is served at each path, and its media type. Nothing comes from elsewhere."""
    presets = files("pipeline") / "presets"
    own = presets / "service"
    style = (presets / "page.css").read_bytes() + (own / "style.css").read_bytes()
    return {
        "/": ((own / "page.html").read_bytes(), "text/html; charset=utf-8"),
        "/page.css": (style, "text/css; charset=utf-8"),
        "/page.js": ((own / "script.js").read_bytes(), "text/javascript; charset=utf-8"),
        "/favicon.svg": ((own / "favicon.svg").read_bytes(), "image/svg+xml"),
    }


def _file(content: bytes, media_type: str) -> Any:
    async def send() -> Response:
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

    return send


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    """One line about each parameter that cannot be what it is."""
    taken = Chosen if request.url.path.endswith("/embed") else Search
    known = f"there is no such parameter; there are {', '.join(taken.model_fields)}"
    lines = [
        f"{'.'.join(map(str, line['loc'][1:])) or 'request'}: "
        f"{known if line['type'] == 'extra_forbidden' else line['msg']}"
        for line in error.errors()
    ]
    return refusal(Refused(422, "bad_request", "; ".join(lines)[:1000]))


async def _http_error(_: Request, error: HTTPException) -> Response:
    code = {404: "no_such_path", 405: "no_such_method"}.get(error.status_code, "bad_request")
    return refusal(Refused(error.status_code, code, str(error.detail), error.headers))


async def _broken(_: Request, error: Exception) -> Response:
    message = f"{type(error).__name__}: this should not happen; the log of the service has where"
    return refusal(Refused(500, "broken", message))
