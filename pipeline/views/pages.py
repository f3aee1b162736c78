"""HTML pages from the templates in ``presets``: one head and one stylesheet for all, nothing loaded from elsewhere."""

from __future__ import annotations

import jinja2

_PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader("pipeline", "presets"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


def render(template: str, **values: object) -> str:
    """The page that ``template``, a path below ``presets``, makes of ``values``; every text in them is escaped."""
    return _PAGES.get_template(template).render(**values)
