from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from cache import FeatureStore, RowOutcome, StoreWriter, compact, verify
from cache.errors import StaleStoreError
from stages.records import Records
from stages.training import (
    ArcFaceConfig,
    Head,
    HeadRecipe,
    LinearHeadConfig,
    TrainingConfig,
    embed,
    head_identity,
    train_head,
)
from stages.training.embed import Embedded, stored_embeddings
from tests.toys.training import HERE, add_to_store, classes_of, digest_of, make_store, toy, toy_features

LABELS = classes_of(8, 20)


def trained(folder: Path, *, failed: list[str] | None = None) -> tuple[FeatureStore, Head]:
    features, records = toy(folder / "features", LABELS, failed=failed or [])
    training = TrainingConfig(epochs=2, holdout=0.0)
    return features, train_head(
        features, records, HeadRecipe(LinearHeadConfig(dim=5), ArcFaceConfig(), training=training)
    )


def never(*_: object) -> None:
    raise AssertionError("the head was run")


def test_embeddings_are_the_heads_output_for_every_feature_at_unit_length(tmp_path: Path) -> None:
    features, head = trained(tmp_path)
    embeddings = embed(head, features, tmp_path / "embeddings")
    digests = features.digests()
    vectors = embeddings.read(digests).astype(np.float64)
    assert embeddings.digests() == digests
    assert (embeddings.dtype, vectors.shape) == (np.dtype("float32"), (160, 5))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    one_by_one = np.concatenate([head(features.read([digest])) for digest in digests])
    np.testing.assert_allclose(vectors, one_by_one, atol=1e-6)
    assert embeddings.identity.fields["head"] == head.fingerprint
    assert embeddings.identity.fields["features"] == features.fingerprint
    assert embeddings.path.parent == tmp_path / "embeddings"
    assert embeddings.name == "toy-linear5"


def test_embedding_again_runs_no_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features, head = trained(tmp_path)
    first = embed(head, features, tmp_path / "embeddings", name="mine")
    monkeypatch.setattr(Head, "__call__", never)
    again = embed(head, features, tmp_path / "embeddings", name="mine")
    assert again.path == first.path
    assert again.digests() == first.digests()


def test_a_head_that_was_trained_again_to_other_weights_fills_no_rows_beside_those_of_the_old_one(
    tmp_path: Path,
) -> None:
    features, head = trained(tmp_path)
    some, every = features.digests()[:100], features.digests()
    first = embed(head, features, tmp_path / "embeddings", digests=some)
    weights = {name: np.flip(array, 0).copy() if name == "weight" else array for name, array in head.weights.items()}
    again = replace(head, weights=weights)  # as of another device: one identity, other weights
    assert again.fingerprint == head.fingerprint
    second = embed(again, features, tmp_path / "embeddings", digests=every)
    for store, made_by, digests in ((second, again, every), (first, head, some)):
        rows = store.read(digests).astype(np.float64)
        np.testing.assert_allclose(rows, made_by(features.read(digests)), atol=1e-6)


def test_only_new_features_are_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features, head = trained(tmp_path)
    embed(head, features, tmp_path / "embeddings")
    new = classes_of(2, 5, first=90)
    add_to_store(features, dict(zip(new, toy_features(new), strict=True)))
    rows: list[int] = []
    call = Head.__call__

    def counted(head: Head, chunk: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        rows.append(len(chunk))
        return call(head, chunk)

    monkeypatch.setattr(Head, "__call__", counted)
    embeddings = embed(head, features, tmp_path / "embeddings")
    assert sum(rows) == 10
    assert len(embeddings) == 170


def test_an_image_that_failed_is_a_failed_row_with_its_reason_and_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, head = trained(tmp_path, failed=["0-3", "5-1"])
    embeddings = embed(head, features, tmp_path / "embeddings")
    lost = [digest_of("0-3"), digest_of("5-1")]
    assert len(embeddings) == 158
    assert not embeddings.usable(lost).any()
    assert [failure.outcome.error for failure in embeddings.failures(lost)] == ["not an image"] * 2
    monkeypatch.setattr(Head, "__call__", never)
    assert embed(head, features, tmp_path / "embeddings").chunks() == embeddings.chunks()


def test_an_image_that_failed_and_has_a_feature_now_is_embedded(tmp_path: Path) -> None:
    features, head = trained(tmp_path, failed=["0-3"])
    embed(head, features, tmp_path / "embeddings")
    mended = dict(zip(LABELS, toy_features(LABELS), strict=True))["0-3"]
    with StoreWriter(features) as writer:
        (chunk,) = writer.plan([digest_of("0-3")], retry_failed=True).chunks
        writer.commit(chunk, mended[None], [RowOutcome()], HERE)
    embeddings = embed(head, features, tmp_path / "embeddings")
    assert embeddings.usable([digest_of("0-3")]).all()
    assert len(embeddings) == 160


def test_an_image_that_could_not_be_read_is_such_a_row_here_too_and_is_written_once(tmp_path: Path) -> None:
    features, head = trained(tmp_path)
    with StoreWriter(features) as writer:
        (chunk,) = writer.plan([digest_of("gone")]).chunks
        writer.commit(chunk, np.full((1, 16), np.nan), [RowOutcome("unread", error="no such file")], HERE)
    embeddings = embed(head, features, tmp_path / "embeddings")
    assert embeddings.counts() == {"ok": 160, "unread": 1}
    assert embed(head, features, tmp_path / "embeddings").chunks() == embeddings.chunks()


def test_a_loaded_head_fills_the_same_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features, head = trained(tmp_path)
    first = embed(head, features, tmp_path / "embeddings")
    head.save(tmp_path / "head")
    loaded = Head.load(tmp_path / "head")
    monkeypatch.setattr(Head, "__call__", never)
    assert embed(loaded, features, tmp_path / "embeddings").path == first.path


def test_features_of_another_store_are_refused_with_both_fingerprints(tmp_path: Path) -> None:
    features, head = trained(tmp_path)
    other = make_store(tmp_path / "features", dict(zip(LABELS, toy_features(LABELS), strict=True)), name="other")
    with pytest.raises(StaleStoreError) as caught:
        embed(head, other, tmp_path / "embeddings")
    assert features.fingerprint in str(caught.value)
    assert other.fingerprint in str(caught.value)
    assert not (tmp_path / "embeddings").exists()


def recompute(features: FeatureStore, keys: list[str], change: float) -> None:
    """As after a mend: the chunk that holds ``keys`` is deleted, and computed again with their numbers changed."""
    numbers = {int(row) // features.chunk_rows for row in features.row_numbers([digest_of(key) for key in keys])}
    for number in numbers:
        (features.path / f"rows/{number}.parquet").unlink()
    features.reload()
    values = dict(zip(LABELS, toy_features(LABELS), strict=True))
    for key in keys:
        values[key] = values[key] + np.float16(change)
    add_to_store(features, values)


def head_of(features: FeatureStore, records: Records) -> str:
    return head_identity(features, records, LinearHeadConfig(dim=5), ArcFaceConfig()).short


def test_features_that_were_computed_anew_are_embedded_again_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, head = trained(tmp_path)
    stored = embed(head, features, tmp_path / "embeddings")
    key = "7-19"
    before = stored.read([digest_of("0-0"), digest_of(key)])
    recompute(features, [key], 0.0)  # the same numbers: nothing is outdated
    monkeypatch.setattr(Head, "__call__", never)
    embed(head, features, tmp_path / "embeddings")
    monkeypatch.undo()
    recompute(features, [key], 1.0)
    assert "1 rows are of features that have been computed anew" in verify(stored, [features])[0]
    assert isinstance(
        stored_embeddings(head, features, stored.path.parent, name=stored.name, digests=[digest_of(key)]), Embedded
    )
    again = embed(head, features, tmp_path / "embeddings")
    assert verify(again, [features]) == []
    np.testing.assert_array_equal(again.read([digest_of("0-0")])[0], before[0])
    assert np.allclose(again.read([digest_of(key)]).astype(float), head(features.read([digest_of(key)])), atol=1e-6)
    assert not np.array_equal(again.read([digest_of(key)])[0], before[1])
    assert {number: rows.num_rows for number, rows in again.chunks().items()} == {0: 160}


def test_a_head_is_of_the_numbers_it_was_trained_on_and_of_no_others(tmp_path: Path) -> None:
    features, records = toy(tmp_path, LABELS)
    part = records.take(range(64))  # the first chunk
    whole, first = head_of(features, records), head_of(features, part)
    new = classes_of(2, 5, first=90)
    add_to_store(features, dict(zip(new, toy_features(new), strict=True)))
    compact(features, [*map(digest_of, new), *records.digests])
    assert (head_of(features, records), head_of(features, part)) == (whole, first)
    recompute(features, ["7-19"], 1.0)
    assert head_of(features, part) == first
    assert head_of(features, records) != whole


def test_embeddings_without_a_record_of_their_features_are_computed_once_again(tmp_path: Path) -> None:
    features, head = trained(tmp_path)
    stored = embed(head, features, tmp_path / "embeddings")
    for number, rows in stored.chunks().items():  # as 0.1.0 wrote them
        old = rows.drop_columns(["made_from", "crc32c"]).replace_schema_metadata(
            {"provenance": stored.provenance(number).to_json()}
        )
        pq.write_table(old, stored.path / f"rows/{number}.parquet")
    assert verify(FeatureStore.at(stored.path), [features]) != []
    assert verify(embed(head, features, tmp_path / "embeddings"), [features]) == []
