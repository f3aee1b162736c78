"""A Milvus database as the index: the rows of a gallery in a collection there, for galleries past one machine.

A collection is named by what it holds (the vectors' fingerprint, keys, labels, domains and attributes), so that loading
it again leaves exactly the rows that should be: full calls of rows are passed over, missing ones are written, and rows
of no key are deleted. A row's id is its place, then never given again. Loads without pymilvus.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cache import fingerprint
from cache.errors import DamagedStoreError, MissingExtraError, SettingsError, UnreachableError
from cache.fingerprint import JSON
from cache.settings import Settings
from cache.storage import Where, storage_of
from stages.ranking.nearest import Rows, Similarity, check_queries
from stages.retrieval.gallery_rows import GalleryRows
from stages.retrieval.indexes.faiss_search import VectorRows, best_of
from stages.retrieval.indexes.snapshots import KEYS, KeyedRows, keys_file, read_snapshot, sidecar_of, write_snapshot

ROWS_A_CALL = 1024
MOST_ROWS = 16_384
_QUERIES_A_CALL = 128
_CONNECT_S, _CALL_S = 5, 120
_LONGEST_TEXT = 65_535  # bytes, of a text in Milvus
_TOKEN = "MILVUS_TOKEN"  # noqa: S105  # the name of a variable

Filters = Mapping[str, Sequence[str | None]]


@dataclass(frozen=True)
class MilvusIndexConfig(Settings):
    """A collection of a Milvus database (extra ``milvus``), loaded from the store and searched over there.

    Args:
        uri: of a cluster, ``http://HOST:19530``, or a path that ends in ``.db``: Milvus Lite, for trying out, which one
            process at a time may open. A token is read from the environment, ``MILVUS_TOKEN``.
        method: ``FLAT`` compares with every row and is exact; ``AUTOINDEX`` is what the server takes.

    >>> MilvusIndexConfig("http://localhost:19530").is_lite
    False
    """

    uri: str
    kind: Literal["milvus"] = "milvus"
    method: Literal["FLAT", "AUTOINDEX"] = "FLAT"

    def __post_init__(self) -> None:
        if not self.is_lite and not re.match(r"(https?|tcp)://[^/\s]+", self.uri):
            raise SettingsError(
                "uri is http://HOST:PORT of a Milvus server, or a path that ends in .db for Milvus Lite; got "
                f"{self.uri!r}"
            )
        if "@" in self.uri.partition("://")[2]:
            raise SettingsError(f"uri holds a password or token: leave it out, and set the variable {_TOKEN}")

    @property
    def is_lite(self) -> bool:
        """Whether the database is a file."""
        return self.uri.endswith(".db") and "://" not in self.uri


class MilvusIndex(KeyedRows):
    """The rows of a gallery in a ``collection``, made from the embeddings of one fingerprint. See :meth:`fill`.

    Raises UnreachableError where the server does not answer or refuses, MissingExtraError where pymilvus is missing.
    """

    def __init__(
        self,
        config: MilvusIndexConfig,
        collection: str,
        keys: Sequence[str],
        embeddings: str,
        dim: int,
        *,
        ids: Rows | None = None,
        next_id: int | None = None,
    ) -> None:
        super().__init__(keys, len(keys), ids=ids, next_id=next_id)
        self.config, self.collection, self.embeddings, self.dim = config, collection, embeddings, dim
        self._client = _connect(config)

    @classmethod
    def fill(cls, config: MilvusIndexConfig, vectors: VectorRows, rows: GalleryRows, embeddings: str) -> MilvusIndex:
        """Load ``vectors`` (G, E) of unit length with what is known of the ``rows``; what is there already stays.

        Killed, it is called again and goes on. Raises UnwritableError and UnreachableError where the database does.
        """
        keys, dim = rows.keys, vectors.shape[1]
        known = {field_of(name): rows.table[column].to_pylist() for name, column in rows.filters.items()}
        of_rows = fingerprint(list[JSON](keys)), fingerprint({field: list[JSON](known[field]) for field in known})
        content: list[JSON] = [embeddings, of_rows[0], dim, config.method, of_rows[1]]
        index = cls(config, f"permafrost_{fingerprint(content)[:16]}", keys, embeddings, dim)
        if not index._opened():
            index._create([*known])
        index._write(vectors, known)
        return index

    @classmethod
    def load(cls, folder: Where, *, embeddings: str, keys: Sequence[str] | None = None) -> MilvusIndex:
        """Open what was saved in ``folder``. Raises as :meth:`GalleryIndex.load`, and where the rows are not there."""
        storage = storage_of(folder)
        wanted: dict[str, JSON] = {"embeddings": embeddings}
        if keys is not None:
            wanted["keys"] = fingerprint(list(keys))
        sidecar, contents = read_snapshot(storage, wanted)
        rows = pq.read_table(pa.BufferReader(contents[KEYS]))
        described: Any = sidecar
        index = cls(
            MilvusIndexConfig(**described["index"]),
            described["collection"],
            rows["key"].to_pylist(),
            embeddings,
            described["dim"],
            ids=rows["id"].to_numpy(),
            next_id=described["next"],
        )
        if not index._opened() or index._count() != len(index):
            raise DamagedStoreError(
                f"the collection {index.collection} at {index.config.uri} does not have the {len(index):,} rows "
                f"that {storage.address()} describes. Build the index again."
            )
        return index

    def save(self, folder: Where) -> None:
        """Write which collection it is, and the keys and ids of its rows, for :meth:`load`."""
        sidecar = sidecar_of(self.embeddings, self.keys, self.dim, self.next_id, self.config)
        sidecar |= {"collection": self.collection}
        write_snapshot(storage_of(folder), {KEYS: keys_file(self.ids, self.keys)}, sidecar)

    def search(
        self,
        queries: npt.NDArray[np.float32],
        k: int,
        exclude: Rows | None = None,
        *,
        allowed: npt.NDArray[np.bool_] | None = None,
        where: Filters | None = None,
    ) -> tuple[Rows, Similarity]:
        """The ids of the ``k`` rows found for each query, best first, and their similarity, both (Q, k).

        As :meth:`GalleryIndex.search`; similarities are the database's, float32, and equal ones come by id. Instead of
        ``allowed`` (G,), whose ids are sent, ``where`` gives values by label, domain or attribute.

        Raises SettingsError for more than 16,384 rows a query of a cluster.
        """
        queries, exclude = check_queries(queries, (self.next_id, self.dim), k, exclude)
        self.check_allowed(allowed)
        width = min(k + int((exclude >= 0).any()), len(self))
        if width > self.most:
            raise SettingsError(
                f"a Milvus cluster gives at most {MOST_ROWS:,} rows a query, and {width:,} are asked for: take a "
                "smaller k, metrics of the first ranks, or another kind of index"
            )
        shape = len(queries), width
        ids, similarity = np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
        conditions = [_condition(name, values) for name, values in (where or {}).items()]
        conditions += _allowed(self.ids, allowed)
        how = {"limit": width, "filter": " and ".join(conditions), "search_params": {"metric_type": "IP"}}
        if allowed is None or allowed.any():
            for low in range(0, len(queries), _QUERIES_A_CALL):
                some = queries[low : low + _QUERIES_A_CALL].tolist()
                for row, hits in enumerate(self._call("search", data=some, output_fields=["id"], **how), low):
                    ids[row, : len(hits)] = [hit["id"] for hit in hits]
                    similarity[row, : len(hits)] = [hit["distance"] for hit in hits]
        itself = ids == exclude[:, None]
        similarity[itself], ids[itself] = -np.inf, -1
        return best_of(ids, similarity, k)

    @property
    def most(self) -> int:
        """How many rows one search can give: a cluster limits them."""
        return len(self) if self.config.is_lite else min(len(self), MOST_ROWS)

    def vectors_at(self, _places: Rows) -> None:
        """None: vectors are not read back."""

    def without(self, keys: Sequence[str]) -> MilvusIndex:
        """The index without the rows of ``keys``, which are deleted in the database, for every other reader too.

        Raises KeyError for a key that is not there, ValueError when no row would be left.
        """
        staying = self.staying(keys)
        gone = np.delete(self.ids, staying).tolist()
        for low in range(0, len(gone), ROWS_A_CALL):
            self._call("delete", ids=gone[low : low + ROWS_A_CALL])
        remaining, ids = [self.keys[row] for row in staying.tolist()], self.ids[staying]
        return MilvusIndex(
            self.config, self.collection, remaining, self.embeddings, self.dim, ids=ids, next_id=self.next_id
        )

    def drop(self) -> None:
        """Delete the collection."""
        self._call("drop_collection")

    def close(self) -> None:
        """End the connection. Milvus Lite can then be opened by another process."""
        self._client.close()

    def _opened(self) -> bool:
        """Whether there is such a collection, which can then be searched."""
        there = bool(self._call("has_collection"))
        if there:
            self._call("load_collection")
        return there

    def _create(self, fields: Sequence[str]) -> None:
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.dim)
        schema.add_field("key", DataType.VARCHAR, max_length=_LONGEST_TEXT)
        for field in fields:
            schema.add_field(field, DataType.VARCHAR, max_length=_LONGEST_TEXT, nullable=True)
        how = self._client.prepare_index_params()
        how.add_index("vector", index_type=self.config.method, metric_type="IP")
        self._call("create_collection", schema=schema, index_params=how, consistency_level="Strong")

    def _write(self, vectors: VectorRows, known: Mapping[str, Sequence[str | None]]) -> None:
        """Write the rows that are missing, and delete those that are of no key."""
        count = self._count()
        if count == len(self):
            return
        for low in range(0, len(self), ROWS_A_CALL):
            high = min(low + ROWS_A_CALL, len(self))
            if count and self._count(f"id >= {low} and id < {high}") == high - low:
                continue
            block = vectors[np.arange(low, high)]
            rows = [
                {"id": row, "vector": block[row - low], "key": self.keys[row]}
                | {field: values[row] for field, values in known.items()}
                for row in range(low, high)
            ]
            self._call("upsert", data=rows)
        if self._count() > len(self):
            self._call("delete", filter=f"id >= {len(self)}")
        if (count := self._count()) != len(self):
            raise DamagedStoreError(
                f"the collection {self.collection} at {self.config.uri} has {count:,} rows after {len(self):,} were "
                "loaded: another program writes to it. Drop it, and build the index again."
            )

    def _count(self, condition: str = "") -> int:
        counted = self._call("query", filter=condition, output_fields=["count(*)"], consistency_level="Strong")
        return int(counted[0]["count(*)"])

    def _call(self, method: str, **arguments: Any) -> Any:
        """What the client's ``method`` says of the collection; an error of the database names it."""
        from pymilvus import MilvusException

        try:
            return getattr(self._client, method)(self.collection, timeout=_CALL_S, **arguments)
        except MilvusException as error:
            raise UnreachableError(f"Milvus at {self.config.uri} cannot do it: {error.message}") from error


def _connect(config: MilvusIndexConfig) -> Any:
    try:
        from pymilvus import MilvusClient, MilvusException

        if config.is_lite:
            import milvus_lite  # noqa: F401
    except ImportError as error:
        what = "Milvus Lite" if error.name == "milvus_lite" else "pymilvus"
        raise MissingExtraError(f"{what}, which index.kind = 'milvus' takes,", "milvus") from None
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs what it raises, with a traceback
    if config.is_lite:
        logging.getLogger("grpc._server").setLevel(logging.CRITICAL)  # and Lite each call that it does not know
    try:
        return MilvusClient(config.uri, token=os.environ.get(_TOKEN, ""), timeout=_CONNECT_S)
    except MilvusException as error:
        hint = f"is the server running, is {_TOKEN} right?"
        if config.is_lite:
            hint = "does its folder exist, and has no other process opened it? Milvus Lite takes one at a time."
        raise UnreachableError(f"Milvus at {config.uri}: {error.message}: {hint}") from error


def field_of(name: str) -> str:
    """The field of a filter: ``label``, ``domain``, or ``attribute_`` with the name where that may be one.

    >>> field_of("label"), field_of("colour"), field_of("base colour")
    ('label', 'attribute_colour', 'attribute_base_20colour')
    """
    if name in ("label", "domain"):
        return name
    return "attribute_" + re.sub(r"[^A-Za-z0-9]", lambda match: f"_{ord(match[0]):x}", name)


def _condition(name: str, values: Sequence[str | None]) -> str:
    """That the field of ``name`` has one of ``values``, in the language of Milvus; None: that it has none."""
    field, texts = field_of(name), [value for value in values if value is not None]
    either = [f"{field} in {json.dumps(texts, ensure_ascii=False)}"] if texts or None not in values else []
    return f"({' or '.join([*either, *([f'{field} is null'] if None in values else [])])})"


def _allowed(ids: Rows, allowed: npt.NDArray[np.bool_] | None) -> list[str]:
    if allowed is None or allowed.all():
        return []
    listed, word = (ids[allowed], "in") if 2 * np.count_nonzero(allowed) <= len(ids) else (ids[~allowed], "not in")
    return [f"id {word} {listed.tolist()}"]
