"""A toy for the training stage: records and a store of features made of numbers, without an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cache import FeatureStore, Identity, Provenance, RowOutcome, StoreWriter, digest_bytes
from stages.records import Records

HERE = Provenance("cpu", {})
DIM = 16


def digest_of(key: str) -> bytes:
    return digest_bytes(key.encode())


def make_records(labels: Mapping[str, str | None]) -> Records:
    """Records of the keys of ``labels``, each the only image of its name."""
    columns: dict[str, Sequence[object]] = {
        "key": list(labels),
        "uri": [f"{key}.jpg" for key in labels],
        "digest": [digest_of(key) for key in labels],
        "label": list(labels.values()),
        "domain": [None] * len(labels),
    }
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    return Records(table, {})


def classes_of(classes: int, each: int, *, first: int = 0) -> dict[str, str | None]:
    """Labels by key: ``each`` images of each of ``classes`` classes."""
    return {f"{c}-{i}": f"class {c}" for c in range(first, first + classes) for i in range(each)}


def toy_features(labels: Mapping[str, str | None], *, noise: float = 1.5, seed: int = 0) -> npt.NDArray[np.float16]:
    """Features (N, D): the first 4 numbers tell the class, the other 12 are louder and tell nothing."""
    rng = np.random.default_rng(seed)
    names = sorted({str(label) for label in labels.values()})
    centres = dict(zip(names, rng.normal(size=(len(names), 4)), strict=True))
    signal = np.stack([centres[str(label)] for label in labels.values()])
    features = np.concatenate([signal, np.zeros((len(labels), DIM - 4))], 1)
    features += rng.normal(size=features.shape) * np.array([0.25] * 4 + [noise] * (DIM - 4))
    return (features + 1).astype(np.float16)


def make_store(
    folder: Path,
    features: Mapping[str, npt.NDArray[np.floating]],
    *,
    failed: Sequence[str] = (),
    name: str = "toy",
    chunk_rows: int = 64,
) -> FeatureStore:
    """A store with a feature for each key; those of ``failed`` are rows without one."""
    dim = len(next(iter(features.values())))
    store = FeatureStore.open(
        folder, name, Identity({"backbone": name}), dim=dim, provenance=HERE, chunk_rows=chunk_rows
    )
    add_to_store(store, features, failed=failed)
    return store


def add_to_store(
    store: FeatureStore, features: Mapping[str, npt.NDArray[np.floating]], *, failed: Sequence[str] = ()
) -> None:
    by_digest = {digest_of(key): (key, feature) for key, feature in features.items()}
    with StoreWriter(store) as writer:
        for chunk in writer.plan(list(by_digest)).chunks:
            rows = [by_digest[digest] for digest in chunk.digests]
            outcomes = [
                RowOutcome("failed", error="not an image") if key in failed else RowOutcome() for key, _ in rows
            ]
            writer.commit(chunk, np.stack([feature for _, feature in rows]), outcomes, HERE)


def toy(folder: Path, labels: Mapping[str, str | None], *, failed: Sequence[str] = ()) -> tuple[FeatureStore, Records]:
    """A store of toy features of ``labels``, and their records."""
    features = dict(zip(labels, toy_features(labels), strict=True))
    return make_store(folder, features, failed=failed), make_records(labels)
