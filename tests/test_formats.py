"""What is on disk is what ``docs/formats.md`` says: its examples read a store and a head by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache import FeatureStore
from cache.errors import MissingRowsError
from stages.training import (
    HeadConfig,
    HeadRecipe,
    InputsConfig,
    LdaHeadConfig,
    LinearHeadConfig,
    NormFaceConfig,
    PcaHeadConfig,
    TrainingConfig,
    train_head,
)
from tests.toys.training import classes_of, make_records, make_store, toy, toy_features

TEXT = (Path(__file__).parent.parent / "docs/formats.md").read_text(encoding="utf-8")
STORE, HEAD = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
LABELS = classes_of(6, 4)


def ran(code: str, **values: Any) -> dict[str, Any]:
    """The names that ``code`` leaves behind."""
    exec(code, values)
    return values


def test_a_store_is_read_by_hand(tmp_path: Path) -> None:
    features = dict(zip(LABELS, toy_features(LABELS), strict=True))
    store = make_store(tmp_path, features, failed=["1-1", "5-3"], chunk_rows=8)
    again = FeatureStore.at(store.path)
    by_hand = ran(STORE, store=str(store.path))["features"]
    digests = again.digests()
    assert set(by_hand) == set(digests)
    assert len(digests) == len(LABELS) - 2
    np.testing.assert_array_equal(np.stack([by_hand[digest] for digest in digests]), again.read(digests))


@pytest.mark.parametrize(
    "config",
    [
        LinearHeadConfig(dim=5),
        LinearHeadConfig(dim=5, inputs=InputsConfig(unit=True, rescale="unit")),
        LinearHeadConfig(dim=5, inputs=InputsConfig(root=0.5, center=False, rescale="none")),
        LdaHeadConfig(dim=3),
        PcaHeadConfig(dim=4),
    ],
    ids=["linear", "unit", "root", "lda", "pca"],
)
def test_a_head_is_applied_by_hand(config: HeadConfig, tmp_path: Path) -> None:
    store, records = toy(tmp_path, LABELS)
    loss = NormFaceConfig() if isinstance(config, LinearHeadConfig) else None
    head = train_head(store, records, HeadRecipe(config, loss, training=TrainingConfig(epochs=1)))
    head.save(tmp_path)
    features = store.to_numpy(records).features
    by_hand = ran(HEAD, head=str(tmp_path / "head.safetensors"), features=features)["embeddings"]
    np.testing.assert_allclose(by_hand, head(features), atol=1e-5)


def test_arrays_hold_what_has_a_feature_in_the_order_of_the_records(tmp_path: Path) -> None:
    store, records = toy(tmp_path, LABELS, failed=["0-1"])
    backwards = records.take(range(len(records))[::-1])
    features, labels, keys = store.to_numpy(backwards)
    assert keys.tolist() == [key for key in reversed(LABELS) if key != "0-1"]
    assert labels.tolist() == [LABELS[key] for key in keys.tolist()]
    np.testing.assert_array_equal(features, store.read([d for d in backwards.digests if store.usable([d]).all()]))
    unlabelled = make_records({"0-0": None, "0-2": "class 0"})
    assert store.to_numpy(unlabelled).labels.tolist() == [None, "class 0"]
    assert store.to_numpy(records.take([])).features.shape == (0, store.dim)
    with pytest.raises(MissingRowsError, match="has no row for the image"):
        store.to_numpy(make_records({"new": "class 0"}))


def test_what_is_printed_of_records_a_store_and_a_head_is_one_line_that_says_what_it_is(tmp_path: Path) -> None:
    store, records = toy(tmp_path, LABELS, failed=["0-1"])
    head = train_head(store, records, PcaHeadConfig(dim=3))
    assert repr(records) == "Records(24 images, 6 labels)"
    assert repr(store).endswith("toy-" + store.identity.short + ": (23, 16) float16, 1 images without a feature)")
    assert repr(head) == f"Head(pca 16 -> 3, of 23 images of 6 classes, {head.identity.short})"
