"""Who is relevant to whom, read from records: by label and domain, by several labels, or by lists of keys."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from cache.errors import RecordsError
from stages.ranking.relevance import ByClass, ByGroups, Relevance, Rows
from stages.records import Records
from stages.retrieval.attribute_similarity import lists_nothing, several


def by_class(queries: Records, gallery: Records) -> ByClass:
    """Relevant are the rows of the same label and, where records have domains, of the same domain."""
    labels, domains = (_numbers(queries, gallery, column) for column in ("label", "domain"))
    names = labels * (domains.max(initial=-1) + 2) + domains  # a pair has a number of its own
    classes = np.where(labels < 0, -1, np.unique(names, return_inverse=True)[1])
    return ByClass(classes[: len(queries)], classes[len(queries) :])


def _numbers(queries: Records, gallery: Records, column: str) -> Rows:
    """A whole number for each text of a column, of the queries and then of the gallery (Q + G,); -1 for none."""
    chunks = [chunk.cast(pa.string()) for side in (queries, gallery) for chunk in side.table[column].chunks]
    numbered = pa.chunked_array(chunks, pa.string()).combine_chunks().dictionary_encode().indices
    codes: Rows = numbered.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


def by_labels(queries: Records, gallery: Records, names: str) -> Relevance:
    """Relevant are the rows with at least one label in common, of the same domain where records have domains.

    The labels of a record are those that the attribute ``names`` lists (``tags``: its tags), as a JSON list or with
    ``|`` between them; where it lists none, the label alone.
    """
    searching, searched = _labels(queries, names), _labels(gallery, names)
    if all(len(labels) <= 1 for labels in (*searching, *searched)):
        numbers: dict[str, int] = {}
        codes = [
            np.array([numbers.setdefault(labels[0], len(numbers)) if labels else -1 for labels in side], dtype=np.int64)
            for side in (searching, searched)
        ]
        return ByClass(*codes)
    return ByGroups.of(searching, searched)


def by_keys(queries: Records, keys: Sequence[str], attributes: Sequence[str]) -> ByGroups:
    """Relevant are the gallery rows whose ``keys`` (G,) the ``attributes`` of a query list, JSON lists of keys.

    A listed key that the gallery has not is nobody's: its image failed, or it is junk that is not there.
    """
    position: Mapping[str, int] = {key: row for row, key in enumerate(keys)}
    listed = [json_lists(queries, name) for name in attributes]
    together = zip(*listed, strict=True)
    return ByGroups.listed([[position[n] for rows in lists for n in rows if n in position] for lists in together])


def json_lists(records: Records, attribute: str) -> list[list[str]]:
    """The lists that an attribute holds as JSON, (N,), empty where a record has none or the attribute is not there."""
    column = f"attributes.{attribute}"
    if column not in records.table.column_names:
        return [[] for _ in range(len(records))]
    texts = zip(records.keys, records.table[column].to_pylist(), strict=True)
    return [[] if lists_nothing(text) else json_list(text, column, key) for key, text in texts]


def json_list(text: str, column: str, key: str) -> list[str]:
    """The texts that ``text`` lists as JSON. Raises RecordsError where it is no such list."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        raise RecordsError(f"{column} of {key!r} must be a JSON list of text, got {text!r:.100}")
    return value


def has_labels(records: Records, names: str) -> bool:
    """Whether the records have the column that :func:`by_labels` would look for."""
    return column_of(names) in records.table.column_names


def column_of(names: str) -> str:
    """The column of the records that an attribute, or ``tags``, is in."""
    return names if names == "tags" else f"attributes.{names}"


def _labels(records: Records, names: str) -> list[list[str]]:
    """The labels of each record, (N,), within its domain."""
    column = column_of(names)
    texts = records.table[column].to_pylist() if has_labels(records, names) else [None] * len(records)
    all_labels = []
    for key, text, label, domain in zip(records.keys, texts, records.labels, records.domains, strict=True):
        if not lists_nothing(text):
            own = json_list(text, column, key) if text.startswith("[") else several(text)
        else:
            own = [] if label is None else [label]
        all_labels.append([name if domain is None else f"{domain}\0{name}" for name in dict.fromkeys(own)])
    return all_labels
