"""The several values of one cell: a JSON list of text, or text with ``|`` between the values."""

from __future__ import annotations

import json
import re

from cache.errors import RecordsError
from stages.records.records import Records

SEPARATOR = "|"
"""Between the values of a cell that has several."""


def several(records: Records, column: str) -> list[list[str]]:
    """The values of ``column`` that each record has, (N,), each once, in their order; none where it is not there.

    Raises RecordsError, naming column and key, for a cell that begins as a JSON list and is no list of text.

    >>> import pyarrow as pa
    >>> records = Records(pa.table({"key": ["a", "b"], "tags": ["red | mug", '["red"]']}), {})
    >>> several(records, "tags")
    [['red', 'mug'], ['red']]
    """
    if column not in records.table.column_names:
        return [[] for _ in range(len(records))]
    values: dict[str | None, list[str]] = {None: []}
    for key, text in zip(records.keys, records.table[column].to_pylist(), strict=True):
        if text not in values:
            begins_a_list = text.lstrip().startswith("[")
            values[text] = different(json_list(text, column, key) if begins_a_list else text.split(SEPARATOR))
    return [values[text] for text in records.table[column].to_pylist()]


def different(values: list[str]) -> list[str]:
    """``values`` without spaces around them, each once, in their order, and none that is empty."""
    return list(dict.fromkeys(value for text in values if (value := text.strip())))


def listed(text: str) -> list[str] | None:
    """The texts that ``text`` lists as JSON; None where it is no such list.

    >>> listed(' ["red", "mug"]'), listed("[sale] mug")
    (['red', 'mug'], None)
    """
    if not text.lstrip().startswith("["):
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, list) and all(isinstance(name, str) for name in value) else None


def json_list(text: str, column: str, key: str) -> list[str]:
    """The texts that ``text`` lists as JSON. Raises RecordsError where it is no such list."""
    if (values := listed(text)) is None:
        raise RecordsError(f"{column} of {key!r} must be a JSON list of text, got {text!r:.100}")
    return values


def lists_nothing(text: str | None) -> bool:
    """Whether ``text`` is as good as missing: empty, ``[]``, or nothing but ``|``.

    >>> [lists_nothing(text) for text in (None, " ", "[]", "|", "a|")]
    [True, True, True, True, False]
    """
    return re.sub(rf"[\s{SEPARATOR}]", "", text or "") in ("", "[]")
