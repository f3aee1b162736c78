"""Records and stores of vectors that tests of rankings are made of."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cache import FeatureStore, Identity, Provenance, RowOutcome, StoreWriter, digest_bytes
from stages.ranking import unit_length
from stages.records import Records
from stages.retrieval.scores import QueryScores
from tests.oracles import retrieval as oracle


def digest_of(key: str) -> bytes:
    return digest_bytes(key.encode())


def records_of(
    labels: Mapping[str, str | None],
    *,
    domains: Mapping[str, str] | None = None,
    same_bytes: Mapping[str, str] | None = None,
    unreadable: Sequence[str] = (),
) -> Records:
    """Records with the keys of ``labels``; ``same_bytes`` names the key whose image a key repeats."""
    copied = same_bytes or {}
    digests = [None if key in unreadable else digest_of(copied.get(key, key)) for key in labels]
    table = pa.table(
        {
            "key": list(labels),
            "digest": pa.array(digests, pa.binary(32)),
            "label": pa.array(labels.values(), pa.string()),
            "domain": pa.array([(domains or {}).get(key) for key in labels], pa.string()),
        }
    )
    return Records(table, {})


def store_of(
    folder: Path, vectors: Mapping[str, npt.NDArray[np.floating]], *, failed: Sequence[str] = (), dtype: str = "float16"
) -> FeatureStore:
    """A store with a row for each key; those of ``failed`` have no feature."""
    dim = len(next(iter(vectors.values())))
    provenance = Provenance("cpu", {})
    store = FeatureStore.open(
        folder, "toy", Identity({"toy": 1}), dim=dim, dtype=dtype, provenance=provenance, chunk_rows=64
    )
    features = {digest_of(key): vector for key, vector in vectors.items()}
    bad = {digest_of(key) for key in failed}
    with StoreWriter(store) as writer:
        for chunk in writer.plan([*features, *sorted(bad)]).chunks:
            rows = np.stack([features.get(digest, np.full(dim, np.nan)) for digest in chunk.digests])
            outcomes = [RowOutcome("failed", error="not an image") if d in bad else RowOutcome() for d in chunk.digests]
            writer.commit(chunk, rows, outcomes, provenance)
    return store


def random_vectors(keys: Sequence[str], dim: int = 6, seed: int = 0) -> dict[str, npt.NDArray[np.floating]]:
    return dict(zip(keys, np.random.default_rng(seed).normal(size=(len(keys), dim)), strict=True))


def classes_of(classes: int, each: int) -> dict[str, str | None]:
    return {f"{c}-{i}": f"class {c}" for i in range(each) for c in range(classes)}


def scored(values: dict[str, float], metric: str = "mmp@5", classes: dict[str, str] | None = None) -> QueryScores:
    keys = tuple(values)
    return QueryScores(keys, tuple(map((classes or {}).get, keys)), {metric: np.array(list(values.values()))})


def loop_scores(
    vectors: Mapping[str, npt.NDArray[np.floating]], queries: Records, gallery: Records, name: str
) -> dict[str, float]:
    """The metric ``name`` of every answerable query, by key, one query at a time over sorted lists."""
    unit = dict(zip(vectors, unit_length(np.stack(list(vectors.values())).astype(np.float16)), strict=True))
    keys = list(gallery.keys)
    facts = dict(zip(keys, zip(gallery.labels, gallery.domains, strict=True), strict=True))
    values = {}
    for key, label, domain in zip(queries.keys, queries.labels, queries.domains, strict=True):
        itself = keys.index(key) if key in keys else -1
        order = oracle.ranking(np.stack([unit[k] for k in keys]), unit[key], itself)
        hits = [label is not None and facts[keys[row]] == (label, domain) for row, _ in order]
        if any(hits):
            values[key] = oracle.metric(name, hits, sum(hits))
    return values
