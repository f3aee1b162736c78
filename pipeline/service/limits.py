"""What a request may be: how large, how long it may take; what another one is refused with, before it is decoded."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image
from pydantic import BaseModel
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from stages.datasets.folder import image_type
from stages.extraction.decode import own_switches


class Refused(Exception):  # noqa: N818 - it is an answer
    """A request that is not answered, and why.

    >>> Refused(404, "unknown_key", "there is no such image").status
    404
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})


class Problem(BaseModel):
    """The error of an answer."""

    code: str  # a word that stays, for programs: ``unknown_key``
    message: str  # what must hold, what came, what to do


class ErrorAnswer(BaseModel):
    """The body of every answer that is an error."""

    error: Problem


_MOST_PARTS = 4  # of a form: the image, and what a browser adds
_FORM_BYTES = 65_536  # of a form around its image
IMAGE_FIELD = "image"


@dataclass(frozen=True)
class Limits:
    """How much one request and all that wait may take."""

    max_bytes: int = 16 * 2**20  # of an uploaded image
    max_pixels: int = 64_000_000  # of an uploaded image, by its header
    max_k: int = 1_000  # matches in one answer
    max_depth: int = 10_000  # the last rank that paging reaches
    queue: int = 128  # images that may wait for the network
    batch: int = 32  # images in one forward at most
    body_seconds: float = 20.0  # in which the body of a request must have come
    answer_seconds: float = 60.0  # in which a request is answered or refused


async def read_image(request: Request, limits: Limits) -> bytes:
    """The bytes of the image that ``request`` uploads, as its body or as the field ``image`` of a form, or Refused."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    form = kind == "multipart/form-data"
    most = limits.max_bytes + (_FORM_BYTES if form else 0)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and len(declared) < 20 and int(declared) > most:
        raise _too_many_bytes(limits)
    try:
        async with asyncio.timeout(limits.body_seconds):
            if form:
                content = await _in_form(request, most, limits)
            else:
                content = b"".join([chunk async for chunk in _bounded(request, most, limits)])
    except TimeoutError:
        message = f"the image has not come within {limits.body_seconds:g} s"
        raise Refused(408, "slow_upload", message, {"Connection": "close"}) from None
    except ClientDisconnect:
        raise Refused(400, "no_image", "the upload was broken off") from None
    if not content:
        raise Refused(400, "no_image", "there is no image: send its bytes as the body, or in the field image of a form")
    if len(content) > limits.max_bytes:
        raise _too_many_bytes(limits)
    if image_type(content[:64]) is None:
        message = "these bytes are no JPEG, PNG, WebP, GIF, BMP, TIFF, JPEG 2000, AVIF or HEIC image"
        raise Refused(415, "no_image_type", message)
    return content


def check_pixels(content: bytes, limits: Limits) -> None:
    """Raise Refused for an image of more pixels than it may have; what else is wrong is found by decoding it."""
    with own_switches():
        try:
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
        except Image.DecompressionBombError:
            width = height = limits.max_pixels
        except Exception:  # noqa: BLE001 - whatever Pillow's readers raise for a damaged header
            return
    if width * height > limits.max_pixels:
        message = f"an image may have {limits.max_pixels / 1e6:g} million pixels; make this one smaller"
        raise Refused(413, "too_many_pixels", message)


async def _in_form(request: Request, most: int, limits: Limits) -> bytes:
    parser = MultiPartParser(
        request.headers, _bounded(request, most, limits), max_files=1, max_fields=_MOST_PARTS, max_part_size=_FORM_BYTES
    )
    parser.spool_max_size = most  # never to a file
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(400, "no_form", f"the form cannot be read: {error.message}") from None
    field = form.get(IMAGE_FIELD)
    content = None if field is None or isinstance(field, str) else await field.read()
    await form.close()
    if content is None:
        raise Refused(400, "no_image", f"the form has no file in the field {IMAGE_FIELD}")
    return content


async def _bounded(request: Request, most: int, limits: Limits) -> Any:  # AsyncGenerator, as the parser wants it
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise _too_many_bytes(limits)
        yield chunk


def _too_many_bytes(limits: Limits) -> Refused:
    most = f"{limits.max_bytes / 2**20:g} MiB"
    return Refused(413, "too_many_bytes", f"an image may have {most}; make this one smaller", {"Connection": "close"})
