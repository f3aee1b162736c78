"""Embeddings: a head's output for every feature of a store, in a store of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cache import Features, FeatureStore, Identity, Provenance, RowOutcome, StoreWriter
from cache.errors import StaleStoreError
from stages.training.head import Head


def embed(
    head: Head,
    features: Features,
    path: Path | str,
    *,
    name: str | None = None,
    digests: Sequence[bytes] | None = None,
) -> FeatureStore:
    """Fill a store below ``path`` with the embeddings (rows, E), float32 and of unit length, of ``features``.

    Rows that are there already are not computed again; an image without a feature has none here either, and the same
    reason, until it gets one.

    Args:
        head: a trained head.
        features: the store that it was trained on.
        path: the folder of embedding stores.
        name: what the store's own folder begins with; by default the name of the features, the head's kind and E.
        digests: the images to embed; by default all of ``features``.

    Raises:
        StaleStoreError: ``head`` was trained on another store.
    """
    if head.features_fingerprint != features.fingerprint:
        raise StaleStoreError(
            features.path,
            [f"features: the head was trained on {head.features_fingerprint}, these are {features.fingerprint}"],
            "Embed the features that the head was trained on, or train a head on these.",
        )
    provenance = Provenance.here("cpu", ["numpy", "torch"])
    embeddings = FeatureStore.open(
        path,
        name or f"{features.name}-{head.config.kind}{head.dim}",
        Identity({"head": head.fingerprint, "features": features.fingerprint}),
        dim=head.dim,
        dtype="float32",
        provenance=provenance,
    )
    asked = [*features.digests(), *(f.digest for f in features.failures())] if digests is None else digests
    failed = dict(features.failures(asked))
    good = [digest for digest, usable in zip(asked, features.usable(asked), strict=True) if usable]
    wanted = [*embeddings.missing(good, retry_failed=True), *embeddings.absent([*failed])]
    if wanted:
        with StoreWriter(embeddings, wait=True) as writer:
            for chunk in writer.plan(wanted, retry_failed=True).chunks:
                outcomes = [failed.get(digest, RowOutcome()) for digest in chunk.digests]
                rows = [row for row, outcome in enumerate(outcomes) if outcome.status == "ok"]
                vectors = np.full((len(outcomes), head.dim), np.nan, np.float32)
                vectors[rows] = head(features.read([chunk.digests[row] for row in rows]))
                writer.commit(chunk, vectors, outcomes, provenance)
    return embeddings
