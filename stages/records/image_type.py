"""What kind of image a file is, by its first bytes: extensions lie, and some files have none."""

from __future__ import annotations

import re

_HEADS: tuple[tuple[str, re.Pattern[bytes]], ...] = tuple(
    (name, re.compile(head, re.DOTALL))
    for name, head in (
        ("jpeg", rb"\xff\xd8\xff"),
        ("png", rb"\x89PNG\r\n\x1a\n"),
        ("gif", rb"GIF8[79]a"),
        ("webp", rb"RIFF....WEBP"),
        ("bmp", rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"),  # with the size of its second header
        ("tiff", rb"(?!.{8}CR)(?:II[*+]\0|MM\0[*+])"),  # but no Canon raw, which begins like one
        ("jp2", rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
        ("avif", rb"....ftyp(?:avi[fs]|(?:mif1|msf1)....(?:....)*?avi[fs])"),
        ("heic", rb"....ftyp(?:he[iv][cxms]|mif1|msf1)"),
    )
)


def image_type(first_bytes: bytes) -> str | None:
    r"""The kind of image that begins with ``first_bytes``, 64 or more; None for other files, camera raw among them.

    It is one of ``jpeg``, ``png``, ``gif``, ``webp``, ``bmp``, ``tiff``, ``jp2``, ``avif`` and ``heic``.

    >>> image_type(b"\xff\xd8\xff\xe0 and so on"), image_type(b"<html>")
    ('jpeg', None)
    """
    return next((name for name, head in _HEADS if head.match(first_bytes)), None)
