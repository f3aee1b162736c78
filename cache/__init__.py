"""Numbers with an identity: the store that features and embeddings live in. Loads without torch."""

from cache.digests import DigestCache
from cache.features import Failure, Features
from cache.fingerprint import Identity, Provenance, digest_bytes, digest_file, fingerprint
from cache.maintenance import Compaction, compact, verify
from cache.object_storage import ObjectStorage
from cache.reader import FeatureStore
from cache.rows import RowOutcome
from cache.source import ImageSource, parse_source
from cache.storage import LocalStorage, Storage
from cache.writer import Chunk, ChunkPlan, StoreWriter

__all__ = [
    "Chunk", "ChunkPlan", "Compaction", "DigestCache", "Failure", "FeatureStore", "Features", "Identity",
    "ImageSource", "LocalStorage", "ObjectStorage", "Provenance", "RowOutcome", "Storage", "StoreWriter", "compact",
    "digest_bytes", "digest_file", "fingerprint", "parse_source", "verify",
]  # fmt: skip
