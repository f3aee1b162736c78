"""Numbers with an identity: the store that features and embeddings live in. Loads without torch."""

from cache.digests import DigestCache
from cache.features import Features
from cache.fingerprint import digest_bytes, digest_file, fingerprint
from cache.identity import Identity, Provenance
from cache.maintenance import Compaction, compact, verify
from cache.rows import RowOutcome
from cache.source import ImageSource, parse_source
from cache.storage import LocalStorage, Storage
from cache.store import Chunk, Failure, FeatureStore

__all__ = [
    "Chunk",
    "Compaction",
    "DigestCache",
    "Failure",
    "FeatureStore",
    "Features",
    "Identity",
    "ImageSource",
    "LocalStorage",
    "Provenance",
    "RowOutcome",
    "Storage",
    "compact",
    "digest_bytes",
    "digest_file",
    "fingerprint",
    "parse_source",
    "verify",
]
