"""An index that knows what it holds, by key. It never changes: with more rows or fewer it is another, and ids stay."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from cache import fingerprint
from cache.errors import DamagedStoreError, SettingsError
from cache.fingerprint import JSON
from cache.settings import changed_settings
from cache.storage import LocalStorage, Where, storage_of
from stages.ranking.nearest import Rows, Similarity, check_queries, nearest_rows, search_among, similarities
from stages.ranking.normalize import Vectors, check_unit
from stages.retrieval.indexes import lazy_faiss as faiss
from stages.retrieval.indexes.faiss_search import (
    VectorRows,
    append,
    best_of,
    in_blocks,
    keeps_ids,
    search_index,
    selecting,
    stored_vectors,
)
from stages.retrieval.indexes.kinds import BuiltConfig, FlatIndexConfig, RefineConfig, build_index, check_rows
from stages.retrieval.indexes.snapshots import (
    INDEX,
    KEPT,
    KEYS,
    SIDECAR,
    KeyedRows,
    keys_file,
    read_snapshot,
    sidecar_of,
    twice,
    write_snapshot,
)

_CONFIG: TypeAdapter[BuiltConfig] = TypeAdapter(BuiltConfig)


class GalleryIndex(KeyedRows):
    """An index with a key for each row, made from the embeddings of one fingerprint.

    ``index`` is one of :func:`build_index`, by ``config``; rows that are added must be made by what ``embeddings`` is
    the fingerprint of. ``originals`` are the vectors (G, E) for exact refinement, and ``mapped`` is the file that the
    lists of ``index`` are mapped from, where they are.

    >>> index = GalleryIndex.build(np.eye(3, dtype=np.float32), ["a", "b", "c"], "made by this store")
    >>> smaller = index.without(["b"])
    >>> smaller.keys_of(smaller.ids), len(index)
    (['a', 'c'], 3)
    """

    def __init__(
        self,
        index: faiss.Index,
        keys: Sequence[str],
        embeddings: str,
        config: BuiltConfig = FlatIndexConfig(),
        *,
        ids: Rows | None = None,
        originals: npt.NDArray[np.floating] | None = None,
        next_id: int | None = None,
        mapped: memoryview | None = None,
    ) -> None:
        self.index, self.embeddings, self.config = index, embeddings, config
        self.originals, self.mapped = originals, mapped
        rows = index.ntotal
        if ids is not None and _is_graph(index):  # which keeps those that were removed
            rows -= (int(ids[-1]) + 1 if next_id is None else next_id) - len(ids)
        super().__init__(keys, rows, ids=ids, next_id=next_id)

    @classmethod
    def build(
        cls, vectors: VectorRows, keys: Sequence[str], embeddings: str, config: BuiltConfig = FlatIndexConfig()
    ) -> GalleryIndex:
        """The index of ``vectors`` (G, E) of unit length, in memory. Raises ValueError as :func:`build_index` does."""
        vectors = check_rows(vectors)
        index = build_index(vectors, config)
        refine: RefineConfig | None = getattr(config, "refine", None)
        originals = None if refine is None else np.empty(vectors.shape, refine.stored)
        if originals is not None:
            for block in in_blocks(0, len(vectors)):
                originals[block] = vectors[block]
        return cls(index, keys, embeddings, config, originals=originals)

    @property
    def bytes_a_row(self) -> float:
        """Of the index as it is stored, all in all, the keys not counted."""
        size = 0 if self.originals is None else self.originals.nbytes

        def count(part: bytes) -> None:
            nonlocal size
            size += len(part)

        if self.mapped is None:  # counted as it is written: no copy is made of an index that fills the memory
            faiss.write_index(self.index, faiss.PyCallbackIOWriter(count))
        else:
            size += self.mapped.nbytes
        return size / len(self)

    def search(
        self, queries: Vectors, k: int, exclude: Rows | None = None, *, allowed: npt.NDArray[np.bool_] | None = None
    ) -> tuple[Rows, Similarity]:
        """The ids of the ``k`` rows found for each query, best first, and their similarity, both (Q, k).

        ``queries`` (Q, E) are float32 of unit length; ``exclude`` (Q,) is the id that is the query itself, or -1;
        ``allowed`` (G,) says which rows may be found, by default all. A flat index gives the exact answer. Another may
        find fewer than k: the rest is id -1 with similarity -inf. With ``allowed`` no list is passed over and a graph's
        vectors are compared one by one, so that every allowed row can be found, however few there are.

        Raises ValueError when shapes do not agree, a query holds NaN, or ``k`` is below 1.
        """
        queries, exclude = check_queries(queries, (self.next_id, self.index.d), k, exclude)
        self.check_allowed(allowed)
        counts_rows = not keeps_ids(self.index) and not self._buried
        left_out = self.places(exclude) if counts_rows else exclude
        whole = self._whole_vectors()
        if whole is not None and allowed is not None:
            among = np.flatnonzero(allowed) if counts_rows else self.ids[allowed]
            rows, similarity = search_among(whole, among, queries, k, left_out)
            return (self._ids(rows) if counts_rows else rows), similarity
        if whole is not None and not _is_graph(self.index):
            rows = nearest_rows(whole, queries, k, left_out)
            return self._ids(rows), similarities(whole, queries, rows)
        refine: RefineConfig | None = getattr(self.config, "refine", None)
        width = k if refine is None else k * refine.candidates
        ids, similarity = self._found(queries, width, left_out, allowed)
        if self.originals is not None:
            places = ids if counts_rows else self.places(ids)
            ids, similarity = best_of(places, similarities(self.originals, queries, places), k)
            counts_rows = True
        return (self._ids(ids) if counts_rows else ids), similarity

    def vectors_at(self, places: Rows) -> Vectors | None:
        """The vectors (n, E) of the rows at ``places``, as they were added; None where there are only codes."""
        whole = self._whole_vectors()
        return None if whole is None else whole[self.ids[places] if self._buried else places]

    def with_rows(self, keys: Sequence[str], vectors: Vectors) -> GalleryIndex:
        """The index with a row more for each of ``keys`` (n,), of ``vectors`` (n, E) of unit length; this one stays.

        Its last n ``ids`` are those of the new rows. What the index learned when it was built (centres, codes) stays.
        Raises ValueError for vectors that do not fit, for keys that are there already, and for an index on disk.
        """
        self._check_changeable()
        vectors = check_unit(vectors, "vectors to add")
        if vectors.shape != (len(keys), self.index.d):
            raise SettingsError(
                f"vectors to add have shape {vectors.shape}; {len(keys)} keys in an index of {self.index.d} numbers a "
                f"row take {(len(keys), self.index.d)}"
            )
        every, ids = (*self.keys, *keys), np.arange(self.next_id, self.next_id + len(keys))
        if len({*every}) < len(every):
            raise SettingsError(f"keys must differ, and {twice(every)!r} would be there twice. Remove it first.")
        index, originals = _copy(self.index), self.originals
        append(index, vectors, ids)
        if originals is not None:
            originals = np.concatenate([originals, vectors.astype(originals.dtype)])
        ids, next_id = np.concatenate([self.ids, ids]), self.next_id + len(keys)
        return GalleryIndex(index, every, self.embeddings, self.config, ids=ids, originals=originals, next_id=next_id)

    def without(self, keys: Sequence[str]) -> GalleryIndex:
        """The index without the rows of ``keys``; this one stays, and ids of the others do.

        A graph (hnsw) keeps the place of a removed row, so its bytes stay until it is built again. Raises KeyError for
        a key that is not there, ValueError when no row would be left and for an index on disk.
        """
        self._check_changeable()
        staying = self.staying(keys)
        index = self.index
        if not _is_graph(index):
            index = _copy(index)
            gone = np.delete(self.ids if keeps_ids(index) else np.arange(len(self)), staying)
            index.remove_ids(faiss.IDSelectorBatch(gone))
        remaining = [self.keys[row] for row in staying.tolist()]
        originals = None if self.originals is None else self.originals[staying]
        ids = self.ids[staying]
        return GalleryIndex(
            index, remaining, self.embeddings, self.config, ids=ids, originals=originals, next_id=self.next_id
        )

    def save(self, folder: Where, *, choice: JSON = None) -> None:
        """Write a snapshot and, last, that it is the one to read: see :mod:`.snapshots`. ``choice`` is recorded."""
        made_from = sidecar_of(self.embeddings, self.keys, self.index.d, self.next_id, self.config, choice)
        index = faiss.serialize_index(self.index).data if self.mapped is None else self.mapped
        contents = {INDEX: index, KEYS: keys_file(self.ids, self.keys)}
        if self.originals is not None:
            contents[KEPT] = _npy(self.originals)
        write_snapshot(storage_of(folder), contents, made_from)

    @classmethod
    def load(
        cls,
        folder: Where,
        *,
        embeddings: str,
        keys: Sequence[str] | None = None,
        config: BuiltConfig | None = None,
        dim: int | None = None,
    ) -> GalleryIndex:
        """Read the index in ``folder``, which must be of the ``embeddings``, and of what else is given.

        Raises :class:`StaleStoreError` when it was made from other embeddings, for another gallery, of another kind or
        size (each difference is named) and :class:`DamagedStoreError` when it is not whole.
        """
        storage = storage_of(folder)
        wanted: dict[str, JSON] = {"embeddings": embeddings}
        if keys is not None:
            wanted |= {"keys": fingerprint(list(keys)), "rows": len(keys)}
        if config is not None:
            wanted["index"] = changed_settings(config)
        if dim is not None:
            wanted["dim"] = dim
        sidecar, contents = read_snapshot(storage, wanted)
        try:
            built, next_id = _CONFIG.validate_python(sidecar["index"]), int(sidecar["next"])  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedStoreError(
                f"{storage.address(SIDECAR)} is not what save() writes. Build the index again."
            ) from error
        rows = pq.read_table(pa.BufferReader(contents[KEYS]))
        mapped = contents[INDEX] if getattr(built, "on_disk", False) else None
        if mapped is None:
            index = faiss.deserialize_index(np.frombuffer(contents[INDEX], np.uint8))
        elif isinstance(storage, LocalStorage):
            index = faiss.read_index(storage.address(f"{sidecar['snapshot']}/{INDEX}"), faiss.IO_FLAG_MMAP)
        else:
            raise SettingsError(f"an index with on_disk = true is mapped from a local folder, not {storage.address()}")
        originals = _array(contents[KEPT]) if KEPT in contents else None
        ids, names = rows["id"].to_numpy(), rows["key"].to_pylist()
        return cls(index, names, embeddings, built, ids=ids, originals=originals, next_id=next_id, mapped=mapped)

    def _check_changeable(self) -> None:
        if self.mapped is not None:
            raise SettingsError(
                "an index with on_disk = true is mapped from its file and does not change: build it of the other rows, "
                "or leave on_disk out"
            )

    @property
    def _buried(self) -> int:
        """Rows of a graph that were removed and are still in it."""
        return self.next_id - len(self.ids) if _is_graph(self.index) else 0

    def _whole_vectors(self) -> Vectors | None:
        """The vectors by the place of the row (of a graph, by id); None where there are codes."""
        index = faiss.downcast_index(self.index)
        if isinstance(index, faiss.IndexHNSWFlat):
            index = faiss.downcast_index(index.storage)
        return stored_vectors(index) if isinstance(index, faiss.IndexFlat) else None

    def _found(
        self, queries: Vectors, width: int, exclude: Rows, allowed: npt.NDArray[np.bool_] | None
    ) -> tuple[Rows, Similarity]:
        """What faiss finds among the rows that are there and ``allowed``, by the ids that it has them by."""
        if allowed is None and not self._buried:
            return search_index(self.index, queries, width, exclude)
        staying = allowed
        if keeps_ids(self.index) or self._buried:
            staying = np.zeros(self.next_id, np.bool_)
            staying[self.ids if allowed is None else self.ids[allowed]] = True
        assert staying is not None
        if (how := selecting(self.index, staying)) is not None:
            return search_index(self.index, queries, width, exclude, how)
        ids, similarity = search_index(self.index, queries, len(self), exclude)  # all, and then those that may
        similarity[(ids < 0) | ~staying[ids]] = -np.inf
        ids[np.isneginf(similarity)] = -1
        return best_of(ids, similarity, width)

    def _ids(self, places: Rows) -> Rows:
        return np.where(places < 0, -1, self.ids[places])


def _is_graph(index: faiss.Index) -> bool:
    return isinstance(index, faiss.IndexHNSW)


def _npy(vectors: npt.NDArray[np.floating]) -> memoryview:
    file = io.BytesIO()
    np.save(file, vectors)
    return file.getbuffer()


def _array(content: memoryview) -> npt.NDArray[np.floating]:
    """The array of a ``.npy`` file, a view of its bytes."""
    file = io.BytesIO(content[:1024])
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return np.frombuffer(content, dtype, offset=file.tell()).reshape(shape)


def _copy(index: faiss.Index) -> faiss.Index:
    return faiss.deserialize_index(faiss.serialize_index(index))
