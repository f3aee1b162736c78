"""Embeddings: a head's output for every feature of a store, in a store of their own or computed as they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cache import Features, FeatureStore, Identity, Provenance, RowOutcome, StoreWriter
from cache.errors import MissingRowsError, StaleStoreError
from cache.fingerprint import JSON
from cache.reader import store_identity
from cache.storage import Where
from stages.training.head import Head


def embed(
    head: Head,
    features: Features,
    path: Where,
    *,
    name: str | None = None,
    digests: Sequence[bytes] | None = None,
) -> FeatureStore:
    """Fill a store below ``path`` with the embeddings (rows, E), float32 and of unit length, of ``features``.

    Rows that are there already are not computed again, unless their feature has been; an image without a feature has
    none here either, and the same reason, until it gets one.

    Args:
        head: a trained head.
        features: the store that it was trained on.
        path: the folder of embedding stores.
        name: what the store's own folder begins with; by default the name of the features, the head's kind and E.
        digests: the images to embed; by default all of ``features``.

    Raises:
        StaleStoreError: ``head`` was trained on another store.

    >>> import tempfile
    >>> from stages.training import train_head
    >>> from stages.training import PcaHeadConfig
    >>> from tests.toys.training import classes_of, toy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     features, records = toy(folder, classes_of(6, 4))
    ...     vectors = embed(train_head(features, records, PcaHeadConfig(dim=3)), features, folder)
    ...     vectors.read(records.digests[:2]).shape
    (2, 3)
    """
    if head.features_fingerprint != features.fingerprint:
        raise StaleStoreError(
            features.address,
            [f"features: the head was trained on {head.features_fingerprint}, these are {features.fingerprint}"],
            "Embed the features that the head was trained on, or train a head on these.",
        )
    provenance = Provenance.here("cpu", ["numpy", "torch"])
    embeddings = FeatureStore.open(
        path,
        name or f"{features.name}-{head.config.kind}{head.dim}",
        _identity(head, features),
        dim=head.dim,
        dtype="float32",
        provenance=provenance,
    )
    good, failed = _by_outcome(features, digests)
    if _incomplete(embeddings, features, good, failed):
        with StoreWriter(embeddings, wait=True) as writer:
            dropped = _drop_outdated(writer, features, [*good, *failed])
            wanted = [
                *embeddings.missing([*good, *dropped], retry_failed=True),
                *embeddings.absent([*failed]),
            ]
            for chunk in writer.plan(wanted, retry_failed=True).chunks:
                outcomes = [failed.get(digest, RowOutcome()) for digest in chunk.digests]
                rows = [row for row, outcome in enumerate(outcomes) if outcome.status == "ok"]
                usable = [chunk.digests[row] for row in rows]
                vectors = np.full((len(outcomes), head.dim), np.nan, np.float32)
                vectors[rows] = head(features.read(usable))
                for row, checksum in zip(rows, features.checksums(usable).tolist(), strict=True):
                    outcomes[row] = outcomes[row]._replace(made_from=checksum)
                writer.commit(chunk, vectors, outcomes, provenance)
    return embeddings


def stored_embeddings(head: Head, features: Features, path: Where, *, name: str, digests: Sequence[bytes]) -> Features:
    """What :func:`embed` gives for the same arguments, for reading alone: nothing is written and no lock is taken.

    The store below ``path`` where it has a row for each of ``digests``; otherwise embeddings computed as they are read.
    """
    identity, remedy = _identity(head, features), "It is read-only here."
    try:
        store = FeatureStore.find(path, name, identity, dim=head.dim, dtype="float32", remedy=remedy)
    except (MissingRowsError, StaleStoreError):
        return Embedded(head, features)
    good, failed = _by_outcome(features, digests)
    return Embedded(head, features) if _incomplete(store, features, good, failed) else store


def _identity(head: Head, features: Features) -> Identity:
    fused = {key: value for key, value in features.identity.fields.items() if key == "fused"}
    # A head has other weights on another device or version of PyTorch: one that was trained again fills a store anew.
    made_by: dict[str, JSON] = {"head": head.fingerprint, "weights": head.weights_digest}
    return Identity({**made_by, "features": features.fingerprint, **fused})


def _outdated(embeddings: FeatureStore, features: Features, digests: Sequence[bytes]) -> list[int]:
    """The chunks of ``embeddings`` with a row of another feature than ``features`` has now for one of ``digests``."""
    rows = embeddings.row_numbers(digests)
    changed = embeddings.usable(digests) & (embeddings.checksums(digests) != features.checksums(digests))
    return sorted({*(rows[changed] // embeddings.chunk_rows).tolist()})


def _drop_outdated(writer: StoreWriter, features: Features, digests: Sequence[bytes]) -> list[bytes]:
    """Take the outdated chunks out, and return the digests in them that have a feature."""
    store, dropped = writer.store, []
    for number in _outdated(store, features, digests):
        dropped += store.chunks()[number]["digest"].to_pylist()
        writer.remove(number)
    store.reload()
    return [digest for digest, usable in zip(dropped, features.usable(dropped), strict=True) if usable]


def _incomplete(
    embeddings: FeatureStore, features: Features, good: Sequence[bytes], failed: Mapping[bytes, RowOutcome]
) -> bool:
    missing = embeddings.missing(good, retry_failed=True) or embeddings.absent([*failed])
    return bool(missing or _outdated(embeddings, features, [*good, *failed]))


def _by_outcome(features: Features, digests: Sequence[bytes] | None) -> tuple[Sequence[bytes], dict[bytes, RowOutcome]]:
    """Those of ``digests``, by default all, that have a feature, and the outcome of those that failed."""
    if digests is None:
        return features.digests(), dict(features.failures())
    usable = features.usable(digests)
    if usable.all():
        return digests, {}
    good = [digests[row] for row in np.flatnonzero(usable).tolist()]
    return good, dict(features.failures([digests[row] for row in np.flatnonzero(~usable).tolist()]))


class Embedded:
    """The embeddings (rows, E), float32 and of unit length, of ``features``: reads like a store, and keeps nothing.

    Its identity is that of the store that :func:`embed` would fill; an image without a feature has no embedding.
    """

    def __init__(self, head: Head, features: Features) -> None:
        self._head, self._features = head, features
        self.name, self.address = f"{features.name}-{head.config.kind}{head.dim}", features.address
        self.dim, self.dtype, self.views = head.dim, np.dtype(np.float32), 1
        self.identity = store_identity(_identity(head, features), head.dim, "float32")
        self.fingerprint = self.identity.fingerprint
        self.digests, self.usable = features.digests, features.usable
        self.failures, self.absent, self.checksums = features.failures, features.absent, features.checksums

    def read(self, digests: Sequence[bytes]) -> npt.NDArray[np.generic]:
        """The embeddings (n, E) of ``digests`` (n,)."""
        return self._head(self._features.read(digests))

    def read_views(self, digests: Sequence[bytes]) -> npt.NDArray[np.generic]:
        """:meth:`read`, as one view (n, 1, E)."""
        return self.read(digests)[:, None]
