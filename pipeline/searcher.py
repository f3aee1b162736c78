"""Search by image: a snapshot of a run's gallery, opened from a folder, that answers many searches.

::

    <artifacts>/searchers/<backbone>/<head>-<identity>/searcher.json     backbones, stores, head, index, thresholds
    <artifacts>/searchers/<backbone>/<head>-<identity>/gallery.parquet   key, label, URI and digest of each row

    image bytes --Embedder--> the vector a store would hold --unit length--> index --row--> key, label, URI

The folder is named by the fingerprint of everything in it, so it is written once and never changes under a reader.
Paths in it are relative to the artifacts folder.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from cache import Features, FeatureStore, LocalStorage, Storage, digest_bytes, fingerprint
from cache.atomic import unless_read_only
from cache.errors import DamagedStoreError, MissingRowsError, RecordsError, StaleStoreError
from cache.fingerprint import JSON
from cache.sealed import json_text, read_sealed
from cache.source import Box
from pipeline.approximate_scores import find_index, index_folder
from pipeline.bundle.layout import Bundle, is_bundle
from pipeline.bundle.snapshots import Snapshot, read_snapshot
from pipeline.dataset import Run
from pipeline.features import find_features
from pipeline.heads import head_folder
from pipeline.vectors import Vectors
from stages.extraction import Backbone, BackboneConfig, Embedder, PcaBasis, PcaConfig, load_backbones
from stages.extraction.known import basis_path
from stages.extraction.sample import check_sample, sample_of
from stages.ranking import unit_length
from stages.retrieval import FlatIndexConfig, GalleryIndex
from stages.training import FusedFeatures, Head

_FILE, _GALLERY, _VERSION = "searcher.json", "gallery.parquet", 1
_COLUMNS = ["key", "label", "uri", "digest"]
_BACKBONE: TypeAdapter[BackboneConfig] = TypeAdapter(BackboneConfig)


class Match(NamedTuple):
    """A gallery image, and its similarity to the image that was searched for: the cosine of their vectors."""

    key: str
    label: str | None
    uri: str
    similarity: float


class _Stored(Protocol):
    def read(self, digests: Sequence[bytes]) -> npt.NDArray[np.generic]: ...


class Searcher:
    """The gallery of one backbone and head; finds the images nearest to images that are given as bytes.

    Args:
        embedder: gives an image the vector that ``vectors`` would hold for it.
        index: of the gallery's vectors, each of unit length.
        gallery: a line for each row of the index, in its order, with the columns key, label, uri and digest.
        vectors: the store of the gallery's vectors. With an index of codes, exact similarities are read from it.
        thresholds: from which similarity on there is a match, by the rate that it was chosen for: ``fpir 0.1``.

    >>> from stages.extraction import Embedder, PcaBasis, PcaConfig, load_backbone
    >>> basis = PcaBasis(np.zeros(12, np.float32), np.eye(12, dtype=np.float32)[:2])
    >>> embedder = Embedder([load_backbone(PcaConfig(dim=2, size=2), basis=basis)])
    >>> index = GalleryIndex.build(np.eye(2, dtype=np.float32), ["a", "b"], "the fingerprint of the vectors")
    >>> gallery = pa.table({"key": ["a", "b"], "label": ["x", "y"], "uri": ["a.png", "b.png"], "digest": [b"", b""]})
    >>> len(Searcher(embedder, index, gallery))
    2
    """

    def __init__(
        self,
        embedder: Embedder,
        index: GalleryIndex,
        gallery: pa.Table,
        vectors: _Stored | None = None,
        thresholds: Mapping[str, float] | None = None,
    ) -> None:
        self.embedder, self._index, self._vectors = embedder, index, vectors
        self.thresholds = dict(thresholds or {})
        self.keys, self.labels, self.uris, self._digests = (gallery[name].to_pylist() for name in _COLUMNS)

    def __len__(self) -> int:
        return len(self.keys)

    def search(
        self, images: Sequence[bytes], k: int = 10, *, boxes: Sequence[Box | None] | None = None, exact: bool = False
    ) -> list[list[Match]]:
        """The ``k`` gallery images nearest to each of ``images``, best first; an approximate index may find fewer.

        Args:
            images: the bytes of image files.
            k: how many matches to return for each, at least 1.
            boxes: the part of each image that counts, None for the whole.
            exact: compute the similarities of the matches from their stored vectors. A threshold holds for these, not
                for what an index of codes estimates.

        Raises RecordsError for an image that cannot be embedded.
        """
        embedded = self.embedder.embed(images, boxes=boxes)
        for row, problem in embedded.problems.items():
            which = "" if len(images) == 1 else f"image {row + 1} of {len(images)} to search for cannot be read: "
            raise RecordsError(f"{which}{problem}")
        queries = unit_length(embedded.vectors)
        ids, similarity = self._index.search(queries, k)
        ids = np.where(ids < 0, -1, np.searchsorted(self._index.ids, ids))  # rows of the gallery
        if exact and self._vectors is not None and not isinstance(self._index.config, FlatIndexConfig):
            for query, row_ids, scores in zip(queries, ids, similarity, strict=True):
                places = np.flatnonzero(row_ids >= 0)
                stored = self._vectors.read([self._digests[row] for row in row_ids[places]])
                scores[places] = unit_length(stored) @ query
            order = np.argsort(-similarity, axis=1, kind="stable")
            ids, similarity = np.take_along_axis(ids, order, axis=1), np.take_along_axis(similarity, order, axis=1)
        return [
            [
                Match(self.keys[row], self.labels[row], self.uris[row], score)
                for row, score in zip(row_ids, scores, strict=True)
                if row >= 0
            ]
            for row_ids, scores in zip(ids.tolist(), similarity.tolist(), strict=True)
        ]

    @classmethod
    def of_run(
        cls,
        run: Run,
        vectors: Vectors,
        *,
        everything: bool = False,
        thresholds: Mapping[str, float] | None = None,
        device: str = "cpu",
    ) -> Searcher:
        """The searcher of the gallery of a run, or of all its records with ``everything``.

        It is written into the artifacts folder for :meth:`open`, unless it is there, the folder is read-only,
        or the embeddings are not stored.
        """
        artifacts = run.artifacts
        part = run.records if everything else run.records.split("gallery")
        index = find_index(run, part, vectors)
        gallery = part.take(part.rows_in(vectors.store)).table.select(_COLUMNS)
        content = io.BytesIO()
        pq.write_table(gallery, content)
        described: dict[str, JSON] = {
            "version": _VERSION,
            "backbones": _described_backbones(run, vectors),
            "stores": [str(store.path.relative_to(artifacts)) for store in _feature_stores(vectors)],
            "sizes": isinstance(vectors.features, FusedFeatures) and vectors.features.sizes,
            "head": None,
            "embeddings": None,
            "index": {
                "folder": str(index_folder(run, part, vectors).relative_to(artifacts)),
                "embeddings": index.embeddings,
            },
            "gallery": digest_bytes(content.getvalue()).hex(),
        }
        if vectors.trained is not None:
            folder = head_folder(run, vectors.head, vectors.features, vectors.trained.identity)
            described["head"] = str(folder.relative_to(artifacts))
            described["embeddings"] = str(vectors.store.path.relative_to(artifacts))
        if thresholds:
            described["thresholds"] = dict(thresholds)
        name = f"{vectors.head}-{fingerprint(described)[:8]}"
        own = run.storage.below(f"searchers/{vectors.backbone}/{name}")
        stored = vectors.trained is None or isinstance(vectors.store, FeatureStore)
        if stored and not own.list(_FILE):
            with unless_read_only():  # this one answers, and the next is described again
                own.put(_GALLERY, content.getbuffer())
                own.put(_FILE, json_text(described).encode())
        run.display.say(f"loading {vectors.backbone}")
        return cls(
            _embedder(run.storage, described, vectors.trained, device), index, gallery, vectors.store, thresholds
        )

    @classmethod
    def open(cls, folder: Path | str, *, artifacts: Storage | None = None, device: str = "cpu") -> Searcher:
        """The searcher of a bundle, or the one that :meth:`of_run` wrote into ``folder``; its networks on ``device``.

        With ``artifacts``, a storage of everything that was made, ``folder`` is what its keys there begin with.
        Reads no dataset. Raises MissingRowsError where there is none, DamagedStoreError where a file is not what was
        written, StaleStoreError where the weights, the head or the index are no longer those it was written for.
        """
        if artifacts is None and is_bundle(Path(folder)):
            bundle = Bundle.open(folder)
            return cls.of_snapshot(read_snapshot(bundle), bundle.embedder(device), bundle.thresholds)
        own = LocalStorage(folder) if artifacts is None else artifacts.below(str(folder))
        artifacts = artifacts or LocalStorage(Path(folder).resolve().parents[2])
        try:
            described = read_sealed(own, _FILE, f"Delete {own.address()} and search again.")
            content = own.read(_GALLERY)
        except FileNotFoundError:
            raise MissingRowsError(
                f"{own.address()} holds no searcher. `permafrost search` with a run file writes it."
            ) from None
        if described.get("version") != _VERSION or digest_bytes(content).hex() != described["gallery"]:
            raise DamagedStoreError(f"{own.address()} is not as it was written. Delete it and search again.")
        gallery = pq.read_table(io.BytesIO(content))
        index = GalleryIndex.load(
            artifacts.below(described["index"]["folder"]),
            embeddings=described["index"]["embeddings"],
            keys=gallery["key"].to_pylist(),
        )
        stores = [FeatureStore(artifacts.below(path)) for path in described["stores"]]
        vectors: Features = stores[0]
        if described["embeddings"] is not None:
            vectors = FeatureStore(artifacts.below(described["embeddings"]))
        elif len(stores) > 1 or described["sizes"]:
            vectors = FusedFeatures(stores, sizes=described["sizes"])
        return cls(_embedder(artifacts, described, None, device), index, gallery, vectors, described.get("thresholds"))

    @classmethod
    def of_snapshot(
        cls, snapshot: Snapshot, embedder: Embedder, thresholds: Mapping[str, float] | None = None
    ) -> Searcher:
        """The searcher of a snapshot of a bundle, with the bundle's ``embedder``, which several of them can share."""
        return cls(embedder, snapshot.index, snapshot.rows, snapshot, thresholds)


def _feature_stores(vectors: Vectors) -> tuple[FeatureStore, ...]:
    features = vectors.features
    return features.stores if isinstance(features, FusedFeatures) else (features,)


def _described_backbones(run: Run, vectors: Vectors) -> list[JSON]:
    """The configurations of the backbones whose features ``vectors`` are made of, with what they were fitted to."""
    artifacts = run.artifacts
    needed = {store.fingerprint for store in _feature_stores(vectors)}
    described: list[JSON] = []
    for wanted in run.config.backbones:
        stores = find_features(run, wanted)
        if needed.isdisjoint(store.fingerprint for store in stores):
            continue
        settings, basis = json.loads(json.dumps(asdict(wanted))), None
        if isinstance(wanted, PcaConfig):
            basis = str(basis_path(wanted, run.records, artifacts / "features").relative_to(artifacts))
        else:  # "auto" is what it was when the store was filled, wherever the searcher is opened
            settings["precision"] = stores[0].identity.fields["precision"]
        if (weights := settings.get("weights")) is not None and Path(weights).is_file():
            settings["weights"] = str(Path(weights).resolve())
        described.append({"config": settings, "basis": basis})
    return described


def _embedder(artifacts: Storage, described: Mapping[str, Any], head: Head | None, device: str) -> Embedder:
    """What embeds images as the described stores hold them; the ``head`` is read from its folder unless it is given."""
    loaded = [
        backbone
        for entry in described["backbones"]
        for backbone in load_backbones(
            _BACKBONE.validate_python(entry["config"]),
            device=device,
            basis=None if entry["basis"] is None else PcaBasis.read(artifacts, entry["basis"]),
        )
    ]
    stores = [FeatureStore(artifacts.below(path)) for path in described["stores"]]
    if head is None and described["head"] is not None:
        head = Head.load(artifacts.below(described["head"]))
    dtype = np.result_type(*(store.dtype for store in stores))
    return Embedder(
        [_filled_by(loaded, store) for store in stores], dtype=str(dtype), sizes=described["sizes"], head=head
    )


def _filled_by(backbones: Sequence[Backbone], store: FeatureStore) -> Backbone:
    """The one of ``backbones`` that fills ``store``. StaleStoreError where its weights or libraries have changed."""
    fields = store.identity.fields
    for backbone in backbones:
        if all(fields.get(key) == value for key, value in backbone.identity.fields.items()):
            check_sample(store, backbone, sample_of(backbone))
            return backbone
    raise StaleStoreError(
        store.path, ["backbone: none of the run file"], "Run `permafrost extract` with this run file."
    )
