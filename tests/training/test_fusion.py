"""Several stores read as one, and rows read in other ways than at once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cache import FeatureStore, Identity, RowOutcome, StoreWriter
from cache.errors import MissingRowsError, StoreError
from stages.retrieval import evaluate
from stages.training import (
    ArcFaceConfig,
    FusedFeatures,
    Head,
    HeadRecipe,
    InputsConfig,
    LdaHeadConfig,
    LinearHeadConfig,
    TrainingConfig,
    embed,
    train_head,
)
from stages.training.rows import labelled_rows
from stages.training.rows.labelled_rows import LabelledRows, from_disk, gathered, prefetch
from tests.toys.training import HERE, classes_of, digest_of, make_records, make_store, toy, toy_features

LABELS = classes_of(8, 12)
DIGESTS = [digest_of(key) for key in LABELS]


def store_of(
    folder: Path,
    name: str,
    dim: int,
    *,
    seed: int = 0,
    views: int = 1,
    failed: tuple[str, ...] = (),
    sized: bool = True,
) -> FeatureStore:
    """A store of the images of ``LABELS``, each of 100 + n by 50 + n pixels for image n."""
    path = folder / name
    store = FeatureStore.open(
        path, name, Identity({"backbone": name}), dim=dim, views=views, provenance=HERE, chunk_rows=10
    )
    shape = (dim,) if views == 1 else (views, dim)
    made = np.random.default_rng(seed).normal(2, 1, (len(LABELS), *shape)).astype(np.float16)
    made[..., :4] += toy_features(LABELS, seed=seed)[:, :4].reshape(len(LABELS), *([1] * (views > 1)), 4) * 3
    keys = list(LABELS)
    with StoreWriter(store) as writer:
        for chunk in writer.plan(DIGESTS).chunks:
            at = [DIGESTS.index(digest) for digest in chunk.digests]
            outcomes = [
                RowOutcome("failed", error="not an image")
                if keys[row] in failed
                else RowOutcome("ok", 100 + row if sized else 0, 50 + row if sized else 0)
                for row in at
            ]
            writer.commit(chunk, made[at], outcomes, HERE)
    return store


def unit(rows: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    wide = rows.astype(np.float64)
    return np.asarray(wide / np.sqrt((wide**2).sum(-1, keepdims=True)))


@pytest.fixture
def two(tmp_path: Path) -> tuple[FeatureStore, FeatureStore]:
    return store_of(tmp_path, "first", 6), store_of(tmp_path, "second", 9, seed=1)


def test_a_fused_row_is_the_rows_of_its_stores_each_of_unit_length(two: tuple[FeatureStore, FeatureStore]) -> None:
    fused = FusedFeatures(two)
    requested = DIGESTS[5::-2]
    by_hand = np.concatenate([unit(store.read(requested)) for store in two], 1)
    np.testing.assert_allclose(fused.read(requested).astype(np.float64), by_hand, atol=3e-4)
    assert fused.read(requested).dtype == np.float16
    assert (fused.dim, fused.blocks, fused.name, fused.views) == (15, (6, 9), "first+second", 1)
    assert fused.digests() == two[0].digests()


def test_the_sizes_of_images_are_three_numbers_more(two: tuple[FeatureStore, FeatureStore]) -> None:
    fused = FusedFeatures(two, sizes=True)
    row = fused.read(DIGESTS[7:8])[0]
    width, height = 107, 57
    np.testing.assert_allclose(row[-3:], [height / width, height / 224, width / 224], rtol=1e-3)
    np.testing.assert_array_equal(row[:-3], FusedFeatures(two).read(DIGESTS[7:8])[0])
    assert (fused.blocks, fused.name) == ((6, 9, 3), "first+second+sizes")


def test_images_of_unknown_size_are_refused_with_how_many(tmp_path: Path) -> None:
    fused = FusedFeatures([store_of(tmp_path, "first", 6, sized=False)], sizes=True)
    with pytest.raises(StoreError, match="does not know the size of 96 of 96 images"):
        fused.read(DIGESTS)


def test_a_size_that_the_stored_dtype_cannot_hold_is_refused(tmp_path: Path) -> None:
    store = FeatureStore.open(tmp_path, "net", Identity({"backbone": "net"}), dim=2, provenance=HERE)
    with StoreWriter(store) as writer:
        (chunk,) = writer.plan(DIGESTS[:2]).chunks
        writer.commit(chunk, np.ones((2, 2)), [RowOutcome("ok", 1, 65_504), RowOutcome("ok", 1, 65_600)], HERE)
    fused = FusedFeatures([store], sizes=True)
    assert np.isfinite(fused.read(chunk.digests[:1]).astype(float)).all()
    with pytest.raises(StoreError, match=r"1 images whose size float16 cannot hold, .* 65600 x 1 pixels"):
        fused.read(chunk.digests)


def test_the_identity_of_fused_features_is_that_of_the_stores_in_their_order(
    two: tuple[FeatureStore, FeatureStore],
) -> None:
    first, second = two
    fused = [FusedFeatures(two), FusedFeatures([second, first]), FusedFeatures(two, sizes=True), FusedFeatures([first])]
    assert len({features.fingerprint for features in fused}) == 4
    assert FusedFeatures(two).fingerprint == fused[0].fingerprint


def test_an_image_that_failed_in_one_store_is_left_out_of_all(tmp_path: Path) -> None:
    stores = store_of(tmp_path, "first", 6, failed=("0-1",)), store_of(tmp_path, "second", 9, failed=("2-2",))
    fused = FusedFeatures(stores)
    lost = [digest_of("0-1"), digest_of("2-2")]
    assert not fused.usable(lost).any()
    assert sorted(failure.digest for failure in fused.failures()) == sorted(lost)
    assert set(fused.digests()) == set(DIGESTS) - set(lost)
    assert fused.absent([digest_of("nobody"), lost[0]]) == [digest_of("nobody")]
    with pytest.raises(MissingRowsError):
        fused.read(lost)
    head = train_head(fused, make_records(LABELS), LdaHeadConfig(dim=3))
    assert (head.summary.failed, head.summary.rows) == (2, 94)
    embeddings = embed(head, fused, tmp_path / "embeddings")
    assert embeddings.counts() == {"ok": 94, "failed": 2}


def test_what_cannot_be_fused_is_refused(tmp_path: Path, two: tuple[FeatureStore, FeatureStore]) -> None:
    with pytest.raises(ValueError, match="from at least one store, got none"):
        FusedFeatures([])
    with pytest.raises(ValueError, match="two of the stores are the same"):
        FusedFeatures([two[0], two[0]])
    with pytest.raises(StoreError, match=r"hold the same views of each image, but first-.* has 1, third-.* has 2"):
        FusedFeatures([two[0], store_of(tmp_path, "third", 5, views=2)])


def test_a_head_on_fused_features_finds_more_than_on_either_and_can_be_saved(
    tmp_path: Path, two: tuple[FeatureStore, FeatureStore]
) -> None:
    records = make_records(LABELS)
    fused = FusedFeatures(two, sizes=True)
    head = train_head(
        fused, records, HeadRecipe(LinearHeadConfig(dim=4), ArcFaceConfig(), training=TrainingConfig(epochs=2))
    )
    assert head.network.inputs.blocks == (6, 9, 3)
    head.save(tmp_path / "head")
    loaded = Head.load(tmp_path / "head", head.identity)
    assert loaded(fused.read(DIGESTS)).tobytes() == head(fused.read(DIGESTS)).tobytes()
    by_store = [_score(store, records) for store in two]
    assert _score(FusedFeatures(two), records) >= max(by_store) - 0.02


def _score(features: FeatureStore | FusedFeatures, records: object) -> float:
    scores = evaluate(features, queries=records, gallery=records, metrics=["mmp@5"])  # type: ignore[arg-type]
    return next(iter(scores)).value


# Where rows come from


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("kind", ["store", "fused", "fused with sizes"])
def test_rows_are_the_same_from_memory_and_from_disk_in_any_order(tmp_path: Path, kind: str, views: int) -> None:
    first = store_of(tmp_path, "first", 6, views=views)
    features: FeatureStore | FusedFeatures = first
    if kind != "store":
        features = FusedFeatures([first, store_of(tmp_path, "second", 9, views=views)], sizes=kind != "fused")
    requested = list(np.random.default_rng(0).permutation(np.array(DIGESTS, dtype=object)))
    whole = features.read_views(requested)
    places = np.random.default_rng(1).integers(len(requested) * views, size=200)
    assert whole.shape == (96, views, features.dim)
    np.testing.assert_array_equal(from_disk(features, requested, places), whole.reshape(-1, features.dim)[places])
    np.testing.assert_array_equal(
        gathered(whole.reshape(-1, features.dim), places), from_disk(features, requested, places)
    )


@pytest.mark.parametrize("at_once", [1, 20, 10_000])
def test_batches_hold_the_rows_and_labels_that_were_asked_for(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(labelled_rows, "_ROWS_AT_ONCE", at_once)
    made = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float16)
    labels, places = np.arange(30) % 7, np.arange(30)[::-1].copy()
    batches = [np.array([3, 1, 4]), np.array([1, 5, 9]), np.array([2])] * 5
    given = list(prefetch(partial(gathered, made), labels, batches, places))
    assert len(given) == 15
    for batch, (values, classes, records) in zip(batches, given, strict=True):
        assert values.tolist() == [made[29 - row].tolist() for row in batch]
        assert classes.tolist() == [row % 7 for row in batch]
        assert records.tolist() == batch.tolist()


def test_an_error_while_rows_are_read_ahead_comes_out_where_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled_rows, "_ROWS_AT_ONCE", 2)

    def broken(places: npt.NDArray[np.int64]) -> npt.NDArray[np.generic]:
        if 5 in places:
            raise OSError("gone")
        return np.zeros((len(places), 2), np.float32)

    batches = [np.array([row]) for row in range(8)]
    with pytest.raises(OSError, match="gone"):
        list(prefetch(broken, np.zeros(8, np.int64), batches, np.arange(8)))


def test_rows_on_disk_train_the_head_that_rows_in_memory_train_where_the_order_is_the_same(tmp_path: Path) -> None:
    from stages.training.rows.sampling import BalancedConfig

    features, records = toy(tmp_path, {key: LABELS[key] for key in sorted(LABELS, key=digest_of)})
    memories: tuple[Literal["ram", "map"], ...] = ("ram", "map")
    heads = [
        train_head(
            features,
            records,
            HeadRecipe(
                LinearHeadConfig(dim=4),
                ArcFaceConfig(),
                training=TrainingConfig(epochs=2, memory=memory, sampling=BalancedConfig()),
            ),
        )
        for memory in memories
    ]
    np.testing.assert_allclose(
        heads[0].network.state_dict()["weight"].numpy(), heads[1].network.state_dict()["weight"].numpy(), atol=1e-6
    )
    assert heads[0].fingerprint != heads[1].fingerprint  # shuffled rows would come in another order


def test_features_past_the_limit_stay_on_disk_and_their_size_alone_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.training import training_inputs

    features, records = toy(tmp_path, LABELS)
    prepared = training_inputs.prepare(features, records, HeadRecipe(LinearHeadConfig(dim=4), ArcFaceConfig()))
    decided = [prepared.mapped]
    for limit in (96 * 16 * 2, 96 * 16 * 2 - 1):
        monkeypatch.setattr(training_inputs, "LARGE_BYTES", limit)
        decided.append(prepared.mapped)
    assert decided == [False, False, True]
    train_head(
        features, records, HeadRecipe(LinearHeadConfig(dim=4), ArcFaceConfig(), training=TrainingConfig(epochs=1))
    )


# Views


def test_each_epoch_takes_a_random_view_of_each_row_and_the_same_ones_again(tmp_path: Path) -> None:
    features = store_of(tmp_path, "first", 6, views=3)
    records = make_records(LABELS)
    whole = {tuple(row.tolist()): (n // 3, n % 3) for n, row in enumerate(features.read_views(DIGESTS).reshape(-1, 6))}

    def visited(views: str) -> list[list[tuple[int, int]]]:
        from stages.training.loop import Batch, Training
        from stages.training.training_inputs import prepare

        training = TrainingConfig(epochs=3, batch_size=16, views=views, memory="map")  # type: ignore[arg-type]
        head = LinearHeadConfig(dim=4, inputs=InputsConfig(center=False, rescale="none"))
        setup = prepare(features, records, HeadRecipe(head, ArcFaceConfig(), training=training))
        run = Training(setup, LabelledRows.of(features, records, mapped=True), None, 3)
        seen: list[torch.Tensor] = []
        plain = run.learn

        def watched(batch: Batch, step: int) -> float:
            seen.append(batch.features)
            return plain(batch, step)

        run.learn = watched  # type: ignore[method-assign]
        epochs = []
        for _ in range(3):
            seen.clear()
            run.epoch()
            epochs.append(sorted(whole[tuple(row.tolist())] for row in torch.cat(seen).numpy()))
        return epochs

    first, second, third = visited("random")
    for epoch in (first, second, third):
        assert [row for row, _ in epoch] == list(range(96))
        assert 20 < sum(view == 1 for _, view in epoch) < 44
    assert first != second != third
    assert visited("random") == [first, second, third]
    assert visited("first") == [[(row, 0) for row in range(96)]] * 3


def test_a_store_of_one_row_in_many_chunks_is_gathered_in_the_order_asked(tmp_path: Path) -> None:
    made = {key: np.full(3, number, np.float16) for number, key in enumerate(LABELS)}
    store = make_store(tmp_path, made, chunk_rows=4)
    order = np.random.default_rng(0).permutation(96)
    taken = from_disk(store, DIGESTS, order)
    assert taken[:, 0].tolist() == order.tolist()
