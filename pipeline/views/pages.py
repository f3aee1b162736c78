"""HTML pages from the templates in ``presets``: one head and one stylesheet for all, nothing loaded from elsewhere."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

import jinja2

_TEMPLATES = "presets"


def render(template: str, **values: object) -> str:
    """The page that ``template``, a path below ``presets``, makes of ``values``; every text in them is escaped."""
    return _environment().get_template(template).render(**values)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_text),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def _text(name: str) -> str:
    return files("pipeline").joinpath(_TEMPLATES, name).read_text(encoding="utf-8")
