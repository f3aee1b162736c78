"""Search by image: the gallery of a run or of a bundle, opened once, that answers many searches.

::

    image bytes --embed--> the vector a store would hold, unit length --find--> matches
    key ---------vectors_of--> the vector that is stored ----------------^
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cache import FeatureStore
from cache.errors import MissingRowsError, RecordsError, SettingsError, StaleStoreError
from cache.source import Box
from pipeline.bundle.layout import Bundle
from pipeline.bundle.snapshots import Snapshot, read_snapshot
from pipeline.dataset import Run, networks_of, stores_of
from pipeline.scores import find_index
from pipeline.vectors import Vectors
from stages.extraction import Backbone, Embedded, Embedder, PcaBasis, PcaConfig, load_backbones
from stages.extraction.backbones.open_clip import OpenClipText, own_text
from stages.extraction.known import basis_key, check_sample, sample_of
from stages.ranking import unit_length
from stages.retrieval import FlatIndexConfig, GalleryIndex
from stages.retrieval.gallery import Index
from stages.retrieval.gallery_rows import GalleryRows, Match
from stages.retrieval.indexes.milvus import MilvusIndex
from stages.training import FusedFeatures, Head
from stages.training.text.sentences import embed_text

_FIRST, _CODES, _DEEPER = 64, 1_024, 4  # rows ranked at first, codes compared again, and how many times more after

Vector: TypeAlias = npt.NDArray[np.float32]
Where: TypeAlias = Mapping[str, Sequence[str | None]] | npt.NDArray[np.bool_]
"""Which rows may be found: values by column, as :meth:`GalleryRows.allowed` takes them, or a mask (G,)."""


class Searcher:
    """The gallery of one backbone and head; finds the images nearest to images that are given as bytes.

    Args:
        embedder: gives an image the vector that the index would hold for it.
        index: of the gallery's vectors, each of unit length.
        gallery: a line for each row of the index, in its order, with the columns of :class:`GalleryRows`.
        read: the stored vectors of rows. With an index of codes, exact similarities are computed from them.
        thresholds: from which similarity on there is a match, by the rate that it was chosen for: ``fpir 0.1``.
        text: gives words the vectors that are beside those of images, where the backbone has a text tower of its own.

    >>> from stages.extraction import Embedder, PcaBasis, PcaConfig, load_backbone
    >>> from stages.retrieval import GalleryIndex
    >>> basis = PcaBasis(np.zeros(12, np.float32), np.eye(12, dtype=np.float32)[:2])
    >>> embedder = Embedder([load_backbone(PcaConfig(dim=2, size=2), basis=basis)])
    >>> index = GalleryIndex.build(np.eye(2, dtype=np.float32), ["a", "b"], "the fingerprint of the vectors")
    >>> gallery = pa.table({"key": ["a", "b"], "label": ["x", "y"], "uri": ["a.png", "b.png"], "digest": [b"", b""]})
    >>> searcher = Searcher(embedder, index, gallery)
    >>> [match.key for match in searcher.find(searcher.vectors_of(["b"]), k=5, where={"label": ["y"]})[0]]
    ['b']
    """

    def __init__(
        self,
        embedder: Embedder,
        index: Index,
        gallery: pa.Table,
        read: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.generic]] | None = None,
        thresholds: Mapping[str, float] | None = None,
        text: Callable[[Sequence[str]], npt.NDArray[np.float32]] | None = None,
    ) -> None:
        self.embedder, self._index, self._read = embedder, index, read
        self.thresholds, self._text = dict(thresholds or {}), text
        self.gallery = GalleryRows.from_table(gallery)
        if self.gallery.keys != list(index.keys):
            raise SettingsError(
                f"the gallery must have a line for each of the {len(index):,} rows of the index, in its order; it has "
                f"{len(gallery):,}, or they differ"
            )

    def __len__(self) -> int:
        return len(self._index)

    def row_of(self, key: str) -> int | None:
        """The place of ``key`` in the gallery, if it is there."""
        try:
            return int(self._index.rows_of([key])[0])
        except KeyError:
            return None

    def embed(self, images: Sequence[bytes], *, boxes: Sequence[Box | None] | None = None) -> Embedded:
        """The vectors (n, E) of image files, of unit length, and the reason for each that has none: its row is NaN.

        Of ``boxes`` each is the part of its image that counts, None for the whole.
        """
        embedded = self.embedder.embed(images, boxes=boxes)
        return Embedded(unit_length(embedded.vectors), embedded.problems)

    def vectors_of(self, keys: Sequence[str]) -> npt.NDArray[np.float32]:
        """The vectors (n, E) of gallery images, of unit length. Raises MissingRowsError for a key that is not there."""
        try:
            return self._vectors_at(self._index.rows_of(keys))
        except KeyError as error:
            raise MissingRowsError(f"{error.args[0]}; the gallery has {len(self):,} others") from None

    @property
    def takes_text(self) -> bool:
        """Whether it may be searched with words."""
        head = self.embedder.head
        return self._text is not None or (isinstance(head, Head) and head.config.kind == "text")

    def embed_text(self, sentences: Sequence[str]) -> npt.NDArray[np.float32]:
        """The vectors (n, E) of ``sentences``, of unit length. Raises SettingsError where the head knows no text."""
        if self._text is not None:
            return unit_length(self._text(sentences))
        if not isinstance(self.embedder.head, Head):
            raise SettingsError(
                "this feature knows no text: search by a head of kind text, or by a projected feature of open_clip"
            )
        return unit_length(embed_text(self.embedder.head, sentences))

    def find(
        self,
        vectors: npt.NDArray[np.generic],
        k: int = 10,
        *,
        where: Where | None = None,
        offset: int = 0,
        exact: bool = False,
        least: float = -np.inf,
    ) -> list[list[Match]]:
        """The ``k`` gallery images nearest to each of ``vectors`` (Q, E), best first, after the first ``offset``.

        All rows that ``where`` allows are ranked, by an approximate index too, which else may find fewer than ``k``.
        With ``exact`` the similarities are those of the stored vectors, for which a threshold holds, and not what an
        index of codes estimates. Images less similar than ``least`` are left out.

        A page has the same images whatever is asked beside it: what an approximate index finds first is ranked before
        what it finds when it is asked for more. Codes are compared again 1,024 at first, then four times as many.
        """
        if k < 1 or offset < 0:
            raise SettingsError(f"k must be at least 1 and offset at least 0, got {k} and {offset}")
        queries, allowed = unit_length(vectors), self.gallery.allowed(where) if isinstance(where, Mapping) else where
        last = min(offset + k, len(self))
        if offset >= last:
            return [[] for _ in queries]
        by_value = isinstance(self._index, MilvusIndex) and isinstance(where, Mapping)  # a database knows the values
        how: dict[str, Any] = {"where": where} if by_value else {"allowed": allowed}
        ranked = self._ranked(queries, last, how, exact=exact, least=least)
        return [self.gallery.matches(rows[offset:last], similarity[offset:last]) for rows, similarity in ranked]

    def _ranked(
        self, queries: Vector, last: int, how: Mapping[str, Any], *, exact: bool, least: float
    ) -> list[tuple[npt.NDArray[np.int64], Vector]]:
        """Of each query the rows from ``least`` on and their similarity, so that the ``last`` does not move any."""
        flat = isinstance(self._index.config, FlatIndexConfig)
        coded = exact and isinstance(self._index, GalleryIndex) and self._index.vectors_at(np.arange(1)) is None
        depth, deepest = last if flat else _CODES if coded else _FIRST, min(len(self), max(last, self._index.most))
        ranked = [(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
        waiting = list(range(len(queries)))
        while waiting:
            ids, similarity = self._index.search(queries[waiting], min(depth, deepest), **how)
            short = []
            for at, rows, scores in zip(waiting, self._index.places(ids), similarity, strict=True):
                above, known = ranked[at]
                new = (rows >= 0) & ~np.isin(rows, above)
                full, rows, scores = (rows >= 0).all(), rows[new], scores[new]
                if exact and not flat and len(rows):
                    scores = self._vectors_at(rows) @ queries[at]
                    order = np.argsort(-scores, kind="stable")
                    rows, scores = rows[order], scores[order]
                rows, scores = rows[scores >= least], scores[scores >= least]
                ranked[at] = np.concatenate([above, rows]), np.concatenate([known, scores])
                if len(ranked[at][0]) < last and full and len(rows):
                    short.append(at)
            waiting = [] if flat or depth >= deepest else short
            depth *= _DEEPER
        return ranked

    def search(
        self,
        images: Sequence[bytes],
        k: int = 10,
        *,
        boxes: Sequence[Box | None] | None = None,
        where: Where | None = None,
        offset: int = 0,
        exact: bool = False,
    ) -> list[list[Match]]:
        """:meth:`find` for the vectors of :meth:`embed`. Raises RecordsError for an image that cannot be embedded."""
        embedded = self.embed(images, boxes=boxes)
        for row, problem in embedded.problems.items():
            which = "" if len(images) == 1 else f"image {row + 1} of {len(images)} to search for cannot be read: "
            raise RecordsError(f"{which}{problem}")
        return self.find(embedded.vectors, k, where=where, offset=offset, exact=exact)

    def _vectors_at(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The vectors of gallery ``rows`` (n,): of the index where it has them, and of the store where it has codes."""
        if (vectors := self._index.vectors_at(rows)) is not None:
            return vectors
        if self._read is None:
            raise MissingRowsError("the index holds codes alone, and no store of the vectors is beside it")
        return unit_length(self._read(rows))

    @classmethod
    def of_run(
        cls,
        run: Run,
        vectors: Vectors,
        *,
        everything: bool = False,
        thresholds: Mapping[str, float] | None = None,
        device: str = "cpu",
        loaded: dict[str, Backbone] | None = None,
    ) -> Searcher:
        """The searcher of the gallery of a run, or of all its records with ``everything``.

        ``loaded`` is as for :func:`embedder_of`. ``permafrost export`` keeps a gallery for :meth:`open`.
        """
        part = run.records if everything else run.records.split("gallery")
        index = find_index(run, part, vectors)
        part = part.take(part.rows_in(vectors.store))
        embedder, text = embedder_of(run, vectors, device, loaded), text_tower_of(run, vectors, device)
        return cls(
            embedder, index, part.table, lambda rows: vectors.store.read(part.digests.take(rows)), thresholds, text
        )

    @classmethod
    def open(cls, path: Path | str, *, device: str = "cpu") -> Searcher:
        """The searcher of the bundle at ``path``, its networks on ``device``; StoreError where it is not whole."""
        bundle = Bundle.open(path)
        snapshot, embedder = read_snapshot(bundle), bundle.embedder(device)  # damage is seen before a network loads
        return cls.of_snapshot(snapshot, embedder, bundle.thresholds, bundle.text(device))

    @classmethod
    def of_snapshot(
        cls, snapshot: Snapshot, embedder: Embedder, thresholds: Mapping[str, float], text: OpenClipText | None
    ) -> Searcher:
        """The searcher of a snapshot of a bundle, whose ``embedder`` and ``text`` can be shared."""
        return cls(embedder, snapshot.index, snapshot.rows, lambda rows: snapshot.vectors[rows], thresholds, text)


def embedder_of(run: Run, vectors: Vectors, device: str = "cpu", loaded: dict[str, Backbone] | None = None) -> Embedder:
    """What embeds images as the images of the run were for ``vectors``, with its networks on ``device``.

    Several share networks by ``loaded``: backbones by the fingerprints of the stores they fill.
    """
    run.display.say(f"loading {vectors.backbone} {vectors.head}")
    stores, filling = stores_of(vectors.features), {} if loaded is None else loaded
    missing = [store for store in stores if store.fingerprint not in filling]
    for wanted, _, filled in networks_of(run, missing) if missing else ():
        basis = None
        if isinstance(wanted, PcaConfig):
            basis = PcaBasis.read(run.storage, f"features/{basis_key(wanted, run.records)}")
        else:  # "auto" is what it was when the store was filled
            precision: Any = filled[0].identity.fields["precision"]
            wanted = replace(wanted, precision=precision)
        networks = load_backbones(wanted, device=device, basis=basis)
        own = {store.fingerprint for store in filled}
        filling |= {store.fingerprint: _filled_by(networks, store) for store in missing if store.fingerprint in own}
    dtype = np.result_type(*(store.dtype for store in stores))
    sizes = isinstance(vectors.features, FusedFeatures) and vectors.features.sizes
    return Embedder(
        [filling[store.fingerprint] for store in stores], dtype=str(dtype), sizes=sizes, head=vectors.trained
    )


def text_tower_of(run: Run, vectors: Vectors, device: str = "cpu") -> OpenClipText | None:
    """The text tower beside ``vectors``, where they are the feature of one open_clip model."""
    if vectors.trained is not None or not isinstance(vectors.features, FeatureStore):
        return None
    wanted, *_ = next(networks_of(run, [vectors.features]))
    return own_text(wanted, vectors.features.identity.fields["output"], device)


def _filled_by(backbones: Sequence[Backbone], store: FeatureStore) -> Backbone:
    """The one of ``backbones`` that fills ``store``. StaleStoreError where its weights or libraries have changed."""
    fields = store.identity.fields
    for backbone in backbones:
        if all(fields.get(key) == value for key, value in backbone.identity.fields.items()):
            check_sample(store, backbone, sample_of(backbone))
            return backbone
    differences = ["backbone: none of the run file"]
    raise StaleStoreError(store.address, differences, "Run `permafrost extract` with this run file.")
