"""Pages from the templates in ``presets``: one head and one stylesheet for all, nothing loaded from elsewhere."""

from __future__ import annotations

import re

import jinja2
from markupsafe import Markup

_PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader("pipeline", "presets"),
    autoescape=jinja2.select_autoescape(disabled_extensions=("txt",), default=True),
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_BREAKS = re.compile(r"(?<=\w[_/\\·:])(?=\w)|(?<=\w[.-])(?=[^\W\d_])")


def render(template: str, **values: object) -> str:
    """What ``template``, a path below ``presets``, makes of ``values``; in a page every text in them is escaped."""
    return _PAGES.get_template(template).render(**values)


def pieces(text: str) -> list[str]:
    """The parts of ``text`` between which a page may break a line: behind the punctuation of a name.

    >>> pieces("red_dress/maxi-2 1e-3")
    ['red_', 'dress/', 'maxi-2 1e-3']
    """
    return _BREAKS.split(text)


def breakable(text: str) -> Markup:
    """``text``, escaped, with its places to break a line.

    >>> breakable("A&B_1")
    Markup('A&amp;B_<wbr>1')
    """
    return Markup("<wbr>").join(pieces(text))


_PAGES.filters["breakable"] = breakable
