"""Embeddings: a head's output for every feature of a store, in a store of their own."""

from __future__ import annotations

from pathlib import Path

from cache import FeatureStore, Identity, Provenance, RowOutcome
from cache.errors import StaleStoreError
from stages.training.heads import Head


def embed(head: Head, features: FeatureStore, path: Path | str, *, name: str | None = None) -> FeatureStore:
    """Fill a store below ``path`` with the embeddings (rows, E), float32 and of unit length, of ``features``.

    Rows that are there already are not computed again. ``name`` begins the folder's name; by default it is that of
    the features, the head's kind and E. Raises StaleStoreError when ``head`` was trained on another store.
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
    digests = features.digests()
    if embeddings.missing(digests):
        with embeddings.writing():
            for chunk in embeddings.plan(digests):
                vectors = head(features.read(chunk.digests))
                embeddings.write_chunk(chunk, vectors, [RowOutcome()] * len(vectors), provenance)
    return embeddings
