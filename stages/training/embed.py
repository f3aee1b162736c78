"""Embeddings: a head's output for every feature of a store, in a store of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cache import FeatureStore, Identity, Provenance, RowOutcome
from cache.errors import StaleStoreError
from stages.training.heads import Head


def embed(head: Head, features: FeatureStore, path: Path | str, *, name: str | None = None) -> FeatureStore:
    """Fill a store below ``path`` with the embeddings (rows, E), float32 and of unit length, of ``features``.

    Rows that are there already are not computed again; a failed image is a failed row here too, until it has a
    feature. ``name`` begins the folder's name; by default it is that of the features, the head's kind and E. Raises
    StaleStoreError when ``head`` was trained on another store.
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
    failed = {digest: outcome for digest, outcome in features.failures() if outcome.status == "failed"}
    wanted = [*embeddings.missing(features.digests(), retry_failed=True), *embeddings.missing([*failed])]
    if wanted:
        with embeddings.writing():
            for chunk in embeddings.plan(wanted, retry_failed=True):
                outcomes = [failed.get(digest, RowOutcome()) for digest in chunk.digests]
                good = [row for row, outcome in enumerate(outcomes) if outcome.status == "ok"]
                vectors = np.full((len(outcomes), head.dim), np.nan, np.float32)
                vectors[good] = head(features.read([chunk.digests[row] for row in good]))
                embeddings.write_chunk(chunk, vectors, outcomes, provenance)
    return embeddings
