"""The kinds of index: what each keeps of a row, its settings, and the faiss index that they stand for.

``trained`` is that index, empty, for rows like ``vectors`` (G, E). Everything learned follows from ``seed``. Two
settings are those of several kinds:

- ``lists`` are cells of the gallery around centres, of which a query visits the nearest ``probes``. 0 is 4 times the
  square root of the rows where a kind cannot do without, else no lists: a query is compared with every row.
- ``refine`` compares what is found first again with the vectors themselves, which are kept beside the index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import Field

from cache.errors import SettingsError
from cache.settings import Settings, Within
from stages.ranking.normalize import check_unit
from stages.retrieval.indexes import lazy_faiss as faiss
from stages.retrieval.indexes.faiss_search import (
    SAMPLE,
    VectorRows,
    append,
    centres,
    check_codes,
    in_blocks,
    random_turn,
    sample,
    seeded,
    turned,
)

_TURNS, _ROUNDS_A_TURN, _FIRST_ROUNDS = 10, 3, 15  # of OPQ: a fifth of the work that faiss does by default
_STORED = {"float16": "QT_fp16", "bfloat16": "QT_bf16", "int8": "QT_8bit", "int6": "QT_6bit", "int4": "QT_4bit"}


Count: TypeAlias = Annotated[int, Within("[1, inf]")]
CodeBytes: TypeAlias = Annotated[int, Within("[1, inf]", "the size of a code")]


@dataclass(frozen=True)
class RefineConfig(Settings):
    """The first ``candidates`` times k rows are compared again with vectors kept in 2 or 4 bytes a number.

    Args:
        candidates: how many times k rows are compared again.
        stored: the dtype of the vectors that are kept for it.
    """

    candidates: Annotated[int, Within("[1, inf]", "how many times k rows are compared again")] = 4
    stored: Literal["float16", "float32"] = "float16"


@dataclass(frozen=True)
class _InLists(Settings):
    """Rows in inverted lists.

    Args:
        lists: inverted lists; 0 is a number by the rows of the gallery.
        probes: lists that a query visits.
        seed: of everything that the index learns or draws.
    """

    lists: Annotated[int, Within("[0, inf]", "a number of cells")] = 0
    probes: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.probes < 1 or 0 < self.lists < self.probes:
            every = self.lists or ""
            raise SettingsError(f"probes is how many lists a query visits, from 1 to all {every}, got {self.probes}")

    def _visiting(self, index: faiss.IndexIVF) -> faiss.IndexIVF:
        index.nprobe = min(self.probes, index.nlist)
        return index


@dataclass(frozen=True)
class _Coded(Settings):
    """Codes in place of the vectors.

    Args:
        refine: compare the first rows again with vectors that are kept beside the codes.
        seed: of everything that the index learns or draws.
    """

    refine: RefineConfig | None = None
    seed: int = 0


@dataclass(frozen=True)
class FlatIndexConfig(Settings):
    """Every query is compared with every gallery row: exact. 4 bytes a number."""

    kind: Literal["flat"] = "flat"

    def trained(self, vectors: VectorRows) -> faiss.Index:
        return faiss.IndexFlatIP(vectors.shape[1])


@dataclass(frozen=True)
class IvfFlatIndexConfig(_InLists):
    """Inverted lists of whole vectors, exact within the lists that a query visits: 4 bytes a number, 8 for the id."""

    kind: Literal["ivf_flat"] = "ivf_flat"

    def trained(self, vectors: VectorRows) -> faiss.Index:
        quantizer = centres(vectors, self.lists, self.seed)
        index = faiss.IndexIVFFlat(quantizer, vectors.shape[1], quantizer.ntotal, faiss.METRIC_INNER_PRODUCT)
        index.is_trained = True  # centres are all there is to learn
        return self._visiting(index)


@dataclass(frozen=True)
class IvfPqIndexConfig(_InLists, _Coded):
    """Inverted lists of product codes (Jégou et al., Product quantization for nearest neighbor search, 2011).

    Args:
        bytes: of a vector's code, which divide its dimensions.
        on_disk: build the lists on disk, a million rows at a time, and map them to search: what is in memory does not
            grow with the vectors. Ids, codes and answers are the same; rows are neither added nor removed.
    """

    kind: Literal["ivf_pq"] = "ivf_pq"
    bytes: CodeBytes = 16
    on_disk: bool = False

    def trained(self, vectors: VectorRows) -> faiss.Index:
        rows, dim = vectors.shape
        check_codes(self.bytes, rows, dim, self.kind)
        quantizer = centres(vectors, self.lists, self.seed)
        index = faiss.IndexIVFPQ(quantizer, dim, quantizer.ntotal, self.bytes, 8, faiss.METRIC_INNER_PRODUCT)
        seeded(index.pq, self.seed)
        index.train(sample(vectors, SAMPLE, self.seed))  # the codes: the centres are trained already
        return self._visiting(index)


@dataclass(frozen=True)
class OpqIndexConfig(_Coded):
    """Product codes of vectors turned so that codes lose least (Ge et al., Optimized product quantization, 2013).

    Args:
        bytes: of a vector's code, which divide its dimensions.
    """

    kind: Literal["opq"] = "opq"
    bytes: CodeBytes = 16

    def trained(self, vectors: VectorRows) -> faiss.Index:
        rows, dim = vectors.shape
        check_codes(self.bytes, rows, dim, self.kind)
        learned = sample(vectors, SAMPLE, self.seed)
        turn = faiss.OPQMatrix(dim, self.bytes)
        turn.niter, turn.niter_pq, turn.niter_pq_0 = _TURNS, _ROUNDS_A_TURN, _FIRST_ROUNDS
        codes = seeded(faiss.ProductQuantizer(dim, self.bytes, 8), self.seed)  # faiss holds no reference to it
        turn.pq = codes
        turn.train(learned)
        inner = faiss.IndexPQ(dim, self.bytes, 8, faiss.METRIC_INNER_PRODUCT)
        seeded(inner.pq, self.seed)
        return turned(learned, turn, inner)


@dataclass(frozen=True)
class HnswIndexConfig(Settings):
    """A graph over whole vectors (Malkov and Yashunin, Hierarchical navigable small worlds, 2018).

    4 bytes a number and 8 a link, rounded up. It is built on one thread, because the graph that several build depends
    on which comes first; so it takes long.

    Args:
        links: neighbours of a row in each layer; twice as many in the lowest.
        effort: candidates kept while a row is linked.
        search_effort: candidates kept while a query is answered; at least k of them are.
    """

    kind: Literal["hnsw"] = "hnsw"
    links: Annotated[int, Within("[2, inf]", "how many neighbours a row has")] = 32
    effort: Count = 40
    search_effort: Count = 64

    def trained(self, vectors: VectorRows) -> faiss.Index:
        index = faiss.IndexHNSWFlat(vectors.shape[1], self.links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = self.effort, self.search_effort
        return index


@dataclass(frozen=True)
class ScalarIndexConfig(_InLists, _Coded):
    """Every number by itself in fewer bits.

    ``stored`` is ``float16``, ``bfloat16``, or levels between the least and the largest value of each of the E numbers.

    Args:
        stored: the type of a stored number.
    """

    kind: Literal["scalar"] = "scalar"
    stored: Literal["float16", "bfloat16", "int8", "int6", "int4"] = "int8"

    def trained(self, vectors: VectorRows) -> faiss.Index:
        dim, learned = vectors.shape[1], sample(vectors, SAMPLE, self.seed)
        stored = getattr(faiss.ScalarQuantizer, _STORED[self.stored])
        if not self.lists:
            every = faiss.IndexScalarQuantizer(dim, stored, faiss.METRIC_INNER_PRODUCT)
            every.train(learned)
            return every
        quantizer = centres(vectors, self.lists, self.seed)
        # Levels of the vectors themselves: differences to a centre have no smaller range where lists are many.
        index = faiss.IndexIVFScalarQuantizer(
            quantizer, dim, quantizer.ntotal, stored, faiss.METRIC_INNER_PRODUCT, False
        )
        index.train(learned)
        return self._visiting(index)


@dataclass(frozen=True)
class BinaryIndexConfig(_Coded):
    """Bits of the vector, turned at random: on which side of the median each number lies.

    The similarity it gives is the cosine of the angle that the bits estimate (Charikar, Similarity estimation from
    rounding, 2002): many rows tie. ``bits`` a row, 8 to the byte; 0 is one for each of its numbers.

    Args:
        bits: of a row; 0 is one for each dimension.
    """

    kind: Literal["binary"] = "binary"
    bits: int = 0

    def __post_init__(self) -> None:
        if self.bits < 0 or self.bits % 8:
            raise SettingsError(f"bits is a multiple of 8, or 0 for one a number, got {self.bits}")

    def trained(self, vectors: VectorRows) -> faiss.Index:
        dim = vectors.shape[1]
        bits = self.bits or -(-dim // 8) * 8
        inner = faiss.IndexLSH(bits, bits, False, True)
        return turned(sample(vectors, SAMPLE, self.seed), random_turn(dim, bits, self.seed), inner)


@dataclass(frozen=True)
class RabitqIndexConfig(_InLists, _Coded):
    """``bits`` (1 to 9) of each number of the turned vector and what corrects them (Gao and Long, RaBitQ, 2024).

    Args:
        bits: of each dimension, 1 to 9.
    """

    kind: Literal["rabitq"] = "rabitq"
    bits: Annotated[int, Within("[1, 9]", "how many each number keeps")] = 1

    def trained(self, vectors: VectorRows) -> faiss.Index:
        dim = vectors.shape[1]
        turn, learned = random_turn(dim, dim, self.seed), sample(vectors, SAMPLE, self.seed)
        if not self.lists:
            return turned(learned, turn, faiss.IndexRaBitQ(dim, faiss.METRIC_INNER_PRODUCT, self.bits))
        quantizer = centres(vectors, self.lists, self.seed, turn)
        inner = faiss.IndexIVFRaBitQ(quantizer, dim, quantizer.ntotal, faiss.METRIC_INNER_PRODUCT, True, self.bits)
        return turned(learned, turn, self._visiting(inner))


BuiltConfig: TypeAlias = Annotated[
    FlatIndexConfig
    | IvfFlatIndexConfig
    | IvfPqIndexConfig
    | OpqIndexConfig
    | HnswIndexConfig
    | ScalarIndexConfig
    | BinaryIndexConfig
    | RabitqIndexConfig,
    Field(discriminator="kind"),
]
"""Any kind of index, distinguished by ``kind``."""


def build_index(vectors: VectorRows, config: BuiltConfig = FlatIndexConfig()) -> faiss.Index:
    """The index of the gallery ``vectors`` (G, E), float32 of unit length; a row's id is its place among them.

    What is learned is learned from a sample, and rows are read a block at a time, except into a graph.

    It follows from the vectors and the config. Raises ValueError when a row holds NaN or is not of unit length, when
    there is no row, or when there are too few for the kind.

    >>> build_index(np.eye(3, dtype=np.float32)).ntotal
    3
    """
    if getattr(config, "on_disk", False):
        raise SettingsError("an index with on_disk = true is built in a folder: index_gallery(..., folder=...)")
    vectors = check_rows(vectors)
    index = config.trained(vectors)
    for rows in [np.arange(len(vectors))] if isinstance(config, HnswIndexConfig) else in_blocks(0, len(vectors)):
        append(index, vectors[rows], rows)
    return index


def check_rows(vectors: VectorRows) -> VectorRows:
    """``vectors`` (G, E), an array as contiguous float32 on the grid. Raises ValueError as :func:`build_index`."""
    if len(vectors) == 0:
        raise SettingsError(f"an index needs at least one gallery row, got shape {vectors.shape}")
    return check_unit(vectors, "gallery vectors") if isinstance(vectors, np.ndarray) else vectors
