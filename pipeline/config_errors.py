"""What is wrong in a run file, in a person's words: pydantic's errors with the dotted paths of the file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stages.datasets import DEFAULT_KIND

if TYPE_CHECKING:
    from pipeline.keys import Table

_REMOVED = {
    ("repeat", "queries"): "the picture of a table shows 8 queries",
    ("one_domain", "power"): "every domain comes as often as the others",
    ("domain_weights", "step"): "the weights move at a step of 1",
    ("domain_weights", "floor"): "all domains have 0.1 of the rows in equal parts",
    ("multilabel", "dropout"): "the network has none",
    ("folder", "label"): "the label of an image is its folder",
}
"""Keys of 0.1.0 by the kind of their table, or its name where it has no kind, and what holds without them."""


def problem(details: Mapping[str, Any], raw: Mapping[str, Any], known: Sequence[Table]) -> str:
    """One line for one of pydantic's errors, ``details``: the dotted path as the file has it, and what must hold there.

    ``raw`` was validated; ``known`` are all tables of a run file, to suggest the nearest key or the table that has it.
    """
    path, kind = _path(details["loc"], raw)
    message = str(details["msg"]).removeprefix("Value error, ")
    match details["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            table, _, key = path.rpartition(".")
            message = "unknown key" + (f" for kind = {kind!r}" if kind else "")
            if holds := _REMOVED.get((kind or table, key)):
                message += f": {holds}. Leave it out"
            else:
                message += _suggestion(key, re.sub(r"\[\d+\]", "", table), kind, known)
        case "missing" | "missing_argument":
            message = "this key is needed"
        case "union_tag_not_found":
            message = "this needs kind = ..."
        case "literal_error":
            message = f"must be {details['ctx']['expected']}, got {details['input']!r}"
        case "union_tag_invalid":
            message = f"kind must be one of {details['ctx']['expected_tags']}, got {details['ctx']['tag']!r}"
        case "tuple_type" | "dataclass_type":
            message = f"this is a table of its own: [{path}], or [[{path}]] where there can be several"
        case kind if kind.endswith(("_type", "_parsing")):
            message = f"{message[0].lower()}{message[1:]}, got {details['input']!r}"
    return f"{path}: {message}" if path else message


def _path(places: Sequence[str | int], raw: Mapping[str, Any]) -> tuple[str, str]:
    """The dotted path of pydantic's ``places`` as the file has it, and the ``kind`` of the table that it ends in.

    Tags of unions, and the tables that a run file has flat (``recipe``, ``head``), are not in the path.
    """
    path, kind = "", ""
    value: Any = raw
    for place in places:
        if isinstance(value, dict):
            kind = value.get("kind", DEFAULT_KIND if path.startswith("dataset") else "")
        of_union = isinstance(value, dict) and place not in value and kind == place
        is_tag = of_union or (isinstance(place, str) and " " in place)  # not a key
        if isinstance(place, int):
            path += f"[{place}]"
        elif place not in ("recipe", "head") and not is_tag:
            path += f".{place}" if path else place
        if not is_tag:
            try:
                value = value[place]
            except (KeyError, IndexError, TypeError):  # a key that is missing
                value = None
    return path, kind


def _suggestion(key: str, table: str, kind: str, known: Sequence[Table]) -> str:
    """The key of ``table`` that looks most like ``key``, and the kinds or tables that do have it."""
    names = {each: {entry.name for entry in each.keys} for each in known}
    own = set[str]().union(*(names[each] for each in known if each.path == table and each.kind in (kind, "")))
    every = set[str]().union(*names.values())  # for a table that is described at another path
    close = difflib.get_close_matches(key, sorted(own or every), n=1)
    meant = f"; did you mean {close[0]}?" if close else ""
    having = [each for each in known if key in names[each]]
    if kinds := dict.fromkeys(each.kind for each in having if each.path == table):
        others = ", ".join(kinds)
        return f"{meant} {key} is of {others}" if meant else f"; other kinds take it ({others}), so leave it out"
    if having and not meant:
        places = dict.fromkeys(f"[{each.path}]" for each in having)
        return "; it stands above all tables" if "[]" in places else f"; it belongs in {' or '.join(places)}"
    return meant
