from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cache import FeatureStore
from stages.records import Records
from stages.training import (
    ArcFaceConfig,
    EpochLog,
    Head,
    HeadRecipe,
    LdaHeadConfig,
    LinearHeadConfig,
    NormFaceConfig,
    TrainingConfig,
    WithinHeadConfig,
    train_head,
)
from stages.training.heads.networks import Experts, simplex
from stages.training.rows.sampling import DomainWeightsConfig
from tests.toys.training import classes_of, make_records, make_store, toy_features

LABELS = classes_of(30, 6)
EXPERTS = TrainingConfig(epochs=3, batch_size=32, experts=True)


def domain_of(key: str) -> str:
    return ("cars", "food", "toys")[int(key.split("-")[0]) % 3]


def in_domains(records: Records) -> Records:
    names = [domain_of(key) for key in records.keys]
    table = records.table
    return Records(table.set_column(table.column_names.index("domain"), "domain", [names]), {})


def apart(folder: Path, distance: float = 25.0) -> tuple[FeatureStore, Records]:
    """Three domains; each is moved by ``distance`` along a number of its own that tells no class."""
    features = toy_features(LABELS).astype(np.float32)
    for row, key in enumerate(LABELS):
        features[row, 10 + ("cars", "food", "toys").index(domain_of(key))] += distance
    store = make_store(folder, dict(zip(LABELS, features, strict=True)))
    return store, in_domains(make_records(LABELS))


def in_domain(records: Records, domain: str) -> Records:
    return records.take([row for row, name in enumerate(records.domains) if name == domain])


def embedded(head: Head, store: FeatureStore, records: Records) -> npt.NDArray[np.float32]:
    return head(store.read(records.digests))


@pytest.mark.parametrize("corners", [2, 3, 7])
def test_the_corners_of_a_simplex_are_of_unit_length_and_equally_far_apart(corners: int) -> None:
    products = (simplex(corners) @ simplex(corners).T).numpy()
    expected = np.where(np.eye(corners) == 1, 1, -1 / (corners - 1))
    np.testing.assert_allclose(products, expected, atol=1e-6)


@pytest.mark.parametrize("trained", [False, True], ids=["a closed form", "trained"])
def test_each_domain_is_embedded_by_the_head_trained_on_it_alone_beside_its_corner(
    tmp_path: Path, trained: bool
) -> None:
    store, records = apart(tmp_path)
    loss = NormFaceConfig() if trained else None
    head = train_head(store, records, HeadRecipe(LdaHeadConfig(dim=6), loss, training=EXPERTS))
    assert "an expert for each domain" in head.summary.chosen_by
    for number, domain in enumerate(("cars", "food", "toys")):
        part = in_domain(records, domain)
        alone = train_head(
            store, part, HeadRecipe(LdaHeadConfig(dim=4), loss, training=replace(EXPERTS, experts=False))
        )
        embeddings = embedded(head, store, part) * np.sqrt(2)
        np.testing.assert_allclose(embeddings[:, :2], np.tile(simplex(3)[number].numpy(), (len(part), 1)), atol=1e-5)
        np.testing.assert_allclose(embeddings[:, 2:], embedded(alone, store, part), atol=1e-5)


def test_images_of_two_domains_are_no_more_similar_than_their_corners_allow(tmp_path: Path) -> None:
    store, records = apart(tmp_path)
    head = train_head(store, records, HeadRecipe(WithinHeadConfig(dim=6), training=EXPERTS))
    similarity = embedded(head, store, records) @ embedded(head, store, records).T
    same = np.array([[a == b for b in records.domains] for a in records.domains])
    corners = (similarity * 2)[~same]
    assert corners.max() <= 0.5 + 1e-5  # the corners' -1/2, and at most 1 of the experts
    np.testing.assert_allclose(np.linalg.norm(embedded(head, store, records), axis=1), 1, atol=1e-6)


def test_the_order_and_number_of_the_rows_change_no_embedding(tmp_path: Path) -> None:
    store, records = apart(tmp_path)
    head = train_head(store, records, HeadRecipe(LdaHeadConfig(dim=6), training=EXPERTS))
    rows = store.read(records.digests)
    order = np.random.default_rng(0).permutation(len(rows))
    np.testing.assert_allclose(head(rows[order]), head(rows)[order], atol=1e-6)
    np.testing.assert_allclose(head(rows[:1]), head(rows)[:1], atol=1e-6)
    assert head(rows[:0]).shape == (0, 6)


def test_domains_that_look_alike_get_one_head(tmp_path: Path) -> None:
    store, records = apart(tmp_path, distance=0.0)
    head = train_head(store, records, HeadRecipe(LdaHeadConfig(dim=6), training=EXPERTS))
    one = train_head(store, records, LdaHeadConfig(dim=6))
    assert "no experts: a gate misroutes" in head.summary.chosen_by
    np.testing.assert_array_equal(embedded(head, store, records), embedded(one, store, records))


@pytest.mark.parametrize(
    ("chosen", "dim", "message"),
    [
        (lambda key: domain_of(key) == "cars", 6, "no experts: one domain"),
        (lambda key: domain_of(key) == "cars" or key.split("-")[0] in ("1", "4"), 6, "food has 2 classes"),
        (lambda key: True, 3, "of 3 dimensions 3 domains leave 1 to an expert"),
    ],
    ids=["one domain", "few classes", "few dimensions"],
)
def test_where_experts_cannot_be_trained_one_head_is_and_the_reason_is_said(
    tmp_path: Path, chosen: object, dim: int, message: str
) -> None:
    store, records = apart(tmp_path)
    chosen_records = records.take([row for row, key in enumerate(records.keys) if chosen(key)])  # type: ignore[operator]
    head = train_head(store, chosen_records, HeadRecipe(LdaHeadConfig(dim=dim), training=EXPERTS))
    assert message in head.summary.chosen_by
    assert not isinstance(head.network, Experts)


def test_saved_and_loaded_experts_embed_alike_and_their_epochs_name_them(tmp_path: Path) -> None:
    store, records = apart(tmp_path / "store")
    config = LinearHeadConfig(dim=6)
    head = train_head(
        store, records, HeadRecipe(config, ArcFaceConfig(), start=WithinHeadConfig(dim=6), training=EXPERTS)
    )
    head.save(tmp_path / "head")
    again = Head.load(tmp_path / "head", head.identity)
    np.testing.assert_array_equal(embedded(again, store, records), embedded(head, store, records))
    assert again.log == head.log
    assert {epoch.expert for epoch in again.log} == {"cars", "food", "toys"}
    assert (again.dim, again.features_dim) == (6, store.dim)


def test_experts_that_are_stopped_go_on_to_the_same_bytes(tmp_path: Path) -> None:
    store, records = apart(tmp_path / "store")

    class StoppedError(Exception):
        pass

    def trained(checkpoint: Path | None, stop: int | None) -> tuple[bytes, list[EpochLog]]:
        heard: list[EpochLog] = []

        def listen(epoch: EpochLog) -> None:
            heard.append(epoch)
            if len(heard) == stop:
                raise StoppedError

        config = LinearHeadConfig(dim=6)
        head = train_head(
            store,
            records,
            HeadRecipe(config, NormFaceConfig(), training=EXPERTS),
            checkpoint=checkpoint,
            on_epoch=listen,
        )
        head.save(tmp_path / "head")
        return (tmp_path / "head/head.safetensors").read_bytes(), heard

    expected, whole = trained(None, None)
    for stop in (1, len(whole) // 2, len(whole) - 1):
        checkpoint = tmp_path / f"{stop}.checkpoint"
        with pytest.raises(StoppedError):
            trained(checkpoint, stop)
        resumed, heard = trained(checkpoint, None)
        assert resumed == expected
        assert len(heard) == len(whole) - stop


def test_an_expert_is_validated_on_the_records_of_its_domain(tmp_path: Path) -> None:
    store, records = apart(tmp_path)
    held = [int(key.split("-")[0]) >= 21 for key in records.keys]
    rest, apart_ = records.take(np.flatnonzero(~np.array(held))), records.take(np.flatnonzero(held))
    head = train_head(
        store, rest, HeadRecipe(LinearHeadConfig(dim=6), ArcFaceConfig(), training=EXPERTS), validation=(apart_, apart_)
    )
    alone = train_head(
        store,
        in_domain(rest, "food"),
        HeadRecipe(LinearHeadConfig(dim=4), ArcFaceConfig(), training=replace(EXPERTS, experts=False)),
        validation=(in_domain(apart_, "food"), in_domain(apart_, "food")),
    )
    scores = [epoch.validation_mmp5 for epoch in head.log if epoch.expert == "food"]
    assert scores == [epoch.validation_mmp5 for epoch in alone.log]


@pytest.mark.parametrize(
    ("config", "training"),
    [
        (LinearHeadConfig(dim=6, nested=(4,)), EXPERTS),
        (LinearHeadConfig(dim=6), replace(EXPERTS, sampling=DomainWeightsConfig())),
    ],
    ids=["nested", "domain weights"],
)
def test_what_does_not_go_with_experts_is_refused(
    tmp_path: Path, config: LinearHeadConfig, training: TrainingConfig
) -> None:
    store, records = apart(tmp_path)
    with pytest.raises(ValueError, match="experts are one head a domain: leave nested sizes out"):
        train_head(store, records, HeadRecipe(config, ArcFaceConfig(), training=training))


def test_too_few_held_out_classes_to_tell_keep_the_start(tmp_path: Path) -> None:
    store, records = apart(tmp_path)
    part, anchored = in_domain(records, "cars"), replace(EXPERTS, experts=False, anchor=(0.0, 1.0))
    head = train_head(store, part, HeadRecipe(LdaHeadConfig(dim=4), NormFaceConfig(), training=anchored))
    alone = train_head(store, part, LdaHeadConfig(dim=4))
    assert head.summary.chosen_by.startswith("the start: 2 classes held out cannot show")
    np.testing.assert_array_equal(embedded(head, store, part), embedded(alone, store, part))
    enough = train_head(
        store, part, HeadRecipe(LdaHeadConfig(dim=4), NormFaceConfig(), training=replace(anchored, holdout=0.5))
    )
    assert enough.log
    assert torch.get_num_threads() == enough.summary.threads
