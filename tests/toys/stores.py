"""Small stores whose features are a function of the image's bytes."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache import Chunk, FeatureStore, Identity, Provenance, RowOutcome, StoreWriter, digest_bytes

PROVENANCE = Provenance("cpu", {"numpy": "2"})
IDENTITY = Identity({"backbone": "toy", "preprocess": {"size": 224}})
DIM = 6


def names(*numbers: int) -> list[bytes]:
    return [digest_bytes(str(number).encode()) for number in numbers]


def value_of(digest: bytes) -> npt.NDArray[np.float32]:
    """The one feature that an image can have: a function of its bytes."""
    return np.frombuffer(digest[: 2 * DIM], dtype=np.uint16).astype(np.float32) / np.float32(65536)


def features_of(chunk: Chunk) -> npt.NDArray[np.float32]:
    """The features (n, D) of a chunk's images."""
    return np.stack([value_of(digest) for digest in chunk.digests])


def open_store(parent: Path, *, identity: Identity = IDENTITY, chunk_rows: int = 4) -> FeatureStore:
    return FeatureStore.open(parent, "toy", identity, dim=DIM, provenance=PROVENANCE, chunk_rows=chunk_rows)


def fill(store: FeatureStore, digests: list[bytes], bad: frozenset[bytes] = frozenset(), retry: bool = False) -> int:
    with StoreWriter(store) as writer:
        chunks = writer.plan(digests, retry_failed=retry).chunks
        for chunk in chunks:
            outcomes = [
                RowOutcome("failed", error="bad") if d in bad else RowOutcome("ok", 3, 4) for d in chunk.digests
            ]
            writer.commit(chunk, features_of(chunk), outcomes, PROVENANCE)
    return sum(len(chunk.digests) for chunk in chunks)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
