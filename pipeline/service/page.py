"""The page: three files, nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files

_MARK = "favicon.svg"


def page_files() -> dict[str, tuple[bytes, str]]:
    """What is served at each path, and its media type.

    >>> sorted(page_files())
    ['/', '/favicon.svg', '/page.css', '/page.js']
    """
    presets = files("pipeline") / "presets"
    own = presets / "service"
    style = (presets / "page.css").read_bytes() + (own / "style.css").read_bytes()
    return {
        "/": ((own / "page.html").read_bytes(), "text/html; charset=utf-8"),
        "/page.css": (style, "text/css; charset=utf-8"),
        "/page.js": ((own / "script.js").read_bytes(), "text/javascript; charset=utf-8"),
        "/favicon.svg": ((own / _MARK).read_bytes(), "image/svg+xml"),
    }
