"""The value of every metric for every query, kept beside the scores: what two runs are compared by.

``scores/<run>.parquet`` has a line for each backbone, head, metric and query. Each backbone and head names the
fingerprint of the embeddings that were scored, and the file that of the data, so that a comparison with what has
changed since is refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cache import Features, Storage, fingerprint
from cache.errors import DamagedStoreError, MissingRowsError
from cache.features import numbers_fingerprint
from cache.fingerprint import JSON
from cache.sealed import parquet_bytes, read_parquet
from stages.records import Records
from stages.records.splits import DISTRACTORS, ROLES
from stages.retrieval.scores import VERSION, QueryScores, Scores

_NAMED = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    pa.field(name, pa.float64() if name == "value" else _NAMED, nullable=name in ("domain", "class"))
    for name in ("backbone", "head", "domain", "class", "metric", "query", "value", "embeddings")
)
_DATA = b"permafrost.data"
TRUTH = "ground truth"
"""What :func:`data_of` calls the fingerprint of the columns that say what is relevant."""
_INTERVALS = "over classes"  # how they are made: raised like VERSION, where the values themselves stay


class Scored(NamedTuple):
    """The scores of one backbone and head, and the fingerprint of what was scored (:func:`scored_numbers`)."""

    backbone: str
    head: str
    embeddings: str
    scores: Scores


@dataclass(frozen=True)
class QueryValues:
    """The last scores of a run, query by query."""

    table: pa.Table
    data: Mapping[str, str]
    """What was scored: see :func:`data_of`."""

    def heads(self) -> list[tuple[str, str]]:
        """Each backbone and head, in the order of the file."""
        columns = (self.table[name].to_pylist() for name in ("backbone", "head"))
        return list(dict.fromkeys(zip(*columns, strict=True)))

    def embeddings(self, backbone: str, head: str) -> str:
        """The fingerprint of what was scored."""
        return str(self._rows(backbone, head)["embeddings"][0].as_py())

    def of(self, backbone: str, head: str) -> list[QueryScores]:
        """The values of one backbone and head, an entry for each metric."""
        rows = self._rows(backbone, head)
        parts = []
        for metric in dict.fromkeys(rows["metric"].to_pylist()):
            part = rows.filter(pc.equal(pc.cast(rows["metric"], pa.string()), metric))
            keys, classes = (tuple(part[name].to_pylist()) for name in ("query", "class"))
            parts.append(QueryScores(keys, classes, {metric: part["value"].to_numpy().astype(np.float64)}))
        return parts

    def write(self, storage: Storage, key: str) -> None:
        """Write the values for :func:`read_query_values`, whole or not at all."""
        storage.put(key, parquet_bytes(self.table, {_DATA: json.dumps(dict(self.data))}, compression="zstd"))

    def _rows(self, backbone: str, head: str) -> pa.Table:
        columns = (pc.cast(self.table[name], pa.string()) for name in ("backbone", "head"))
        masks = [pc.equal(column, wanted) for column, wanted in zip(columns, (backbone, head), strict=True)]
        return self.table.filter(pc.and_(*masks))


def data_of(
    queries: Records,
    gallery: Records,
    settings: Mapping[str, JSON],
    columns: Sequence[str] = (),
    tuned_on: Sequence[Records] = (),
) -> dict[str, str]:
    """What scores follow from besides the embeddings, each as text.

    Fingerprints of both sides, of the order of byte-identical gallery images, which tie, of the ground truth in
    ``columns``, and of the records that something was ``tuned_on``;
    how they were searched (the settings that differ from their defaults); and the version of the code that scored:
    scores of another version are not read, but computed anew.
    """
    data = {
        "queries": records_fingerprint(queries),
        "gallery": records_fingerprint(gallery),
        "retrieval": json.dumps(settings, sort_keys=True),
        "scoring": f"{VERSION}, intervals {_INTERVALS}",
    }
    if order := _order_of_copies(gallery):
        data["order of copies"] = order
    if columns:
        data[TRUTH] = (
            f"{', '.join(columns)}: {fingerprint([records_fingerprint(side, columns) for side in (queries, gallery)])}"
        )
    if tuned_on:
        data["tuned on"] = fingerprint([records_fingerprint(part) for part in tuned_on])
    return data


def scored_numbers(vectors: Features, records: Records) -> str:
    """The fingerprint of the numbers that scores of ``vectors`` follow from: of the store, and of all searched rows."""
    searched = records.split(*(role for role in (*ROLES, *DISTRACTORS) if role != "train"))
    return fingerprint([vectors.fingerprint, numbers_fingerprint(vectors, searched.digests)])


def values_of(scored: Sequence[Scored], data: Mapping[str, str]) -> QueryValues:
    """The values of ``scored``, which follow from ``data``."""
    parts = []
    for part in scored:
        for metric, values in part.scores.per_query.items():
            scores = part.scores
            names = part.backbone, part.head, scores.query_domains, scores.query_classes, metric, scores.query_keys
            fields = (*names, values, part.embeddings)
            columns = [[one] * len(values) if isinstance(one, str) else one for one in fields]
            parts.append(pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA))
    table = pa.concat_tables([SCHEMA.empty_table(), *parts]).unify_dictionaries()
    return QueryValues(table, dict(data))


def read_query_values(storage: Storage, key: str) -> QueryValues:
    """Read what :meth:`QueryValues.write` wrote.

    Raises MissingRowsError where there is none, or one without classes, of an earlier version; and DamagedStoreError
    where it cannot be read.
    """
    path = storage.address(key)
    try:
        table = read_parquet(storage.read(key))
        data = json.loads(table.schema.metadata[_DATA])
    except FileNotFoundError:
        raise MissingRowsError(f"There is no {path}. `permafrost score` with this run file writes it.") from None
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise DamagedStoreError(f"{path} cannot be read: {error}. Score again: `permafrost score`.") from error
    if "class" not in table.column_names:
        raise MissingRowsError(f"{path} is of an earlier version, without the class of each query. Score again.")
    return QueryValues(table.cast(SCHEMA), data)


def records_fingerprint(records: Records, columns: Sequence[str] = ()) -> str:
    """Of the key, the image, label, domain and ``columns`` of each record, whatever their order."""
    known = [name for name in columns if name in records.table.column_names]
    cells = (records.table[name].to_pylist() for name in ("label", "domain", *known))
    rows = zip(records.keys, (digest.hex() for digest in records.digests), *cells, strict=True)
    return fingerprint(json.dumps([known, sorted(map(json.dumps, rows))]))


def _order_of_copies(gallery: Records) -> str:
    """The keys of images of equal bytes, in their order, which decides where similarities tie; empty without copies."""
    sizes = Counter(gallery.digests)
    keys = [key for key, digest in zip(gallery.keys, gallery.digests, strict=True) if digest and sizes[digest] > 1]
    return fingerprint([*keys]) if keys else ""
