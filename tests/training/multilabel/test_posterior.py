"""Posteriors as an embedding: the regression against refits, the similarity against its definition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.training import Head, PosteriorHeadConfig, train_head
from stages.training.multilabel.kinds import AttributesConfig
from stages.training.multilabel.posterior import PosteriorNetwork, Ridge, likeness, spread_rows, whitening_of
from tests.toys.attributes import toy_attributes, with_columns

LINEAR = PosteriorHeadConfig(dim=0, kernel="linear", roots=(1.0,), penalties=(0.3,), temperatures=(0.2,))


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_regression_is_the_normal_equations_about_the_means() -> None:
    rows, targets = torch.randn(20, 6, generator=drawn(), dtype=torch.float64), torch.rand(20, 3, generator=drawn(1))
    weight, bias = Ridge.of(rows).fit(targets, 0.7)
    x, y = rows - rows.mean(0), targets.double() - targets.double().mean(0)
    expected = torch.linalg.solve(x.T @ x + 0.7 * torch.eye(6, dtype=torch.float64), x.T @ y)
    torch.testing.assert_close(weight, expected)
    torch.testing.assert_close(rows.mean(0) @ weight + bias, targets.double().mean(0))


def test_a_row_predicted_without_itself_is_what_a_regression_without_it_says() -> None:
    """With the mean counted as a direction without penalty: the closed form of the same ridge refitted."""
    rows, targets = torch.randn(15, 4, generator=drawn(), dtype=torch.float64), torch.rand(15, 2, generator=drawn(1))
    given = Ridge.of(rows).left_out(targets, 0.5)
    for row in range(15):
        others = [at for at in range(15) if at != row]
        x, y = rows[others], targets[others].double()
        wide = torch.cat([x, torch.ones(14, 1, dtype=torch.float64)], 1)
        penalty = torch.diag(torch.tensor([0.5] * 4 + [0.0], dtype=torch.float64))
        weight = torch.linalg.solve(wide.T @ wide + penalty, wide.T @ y)
        torch.testing.assert_close(given[row], torch.cat([rows[row], torch.ones(1, dtype=torch.float64)]) @ weight)


def test_a_group_predicted_without_itself_is_what_a_regression_without_it_says() -> None:
    rows, targets = torch.randn(15, 4, generator=drawn(), dtype=torch.float64), torch.rand(15, 2, generator=drawn(1))
    groups = torch.arange(15) % 4
    given = Ridge.of(rows).left_out(targets, 0.5, groups)
    wide = torch.cat([rows, torch.ones(15, 1, dtype=torch.float64)], 1)
    penalty = torch.diag(torch.tensor([0.5] * 4 + [0.0], dtype=torch.float64))
    for group in range(4):
        others, own = groups != group, groups == group
        x = wide[others]
        weight = torch.linalg.solve(x.T @ x + penalty, x.T @ targets[others].double())
        torch.testing.assert_close(given[own], wide[own] @ weight, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("grouped", [False, True], ids=["rows", "groups"])
def test_a_regression_on_products_is_that_on_the_rows_whose_products_they_are(grouped: bool) -> None:
    rows = torch.randn(15, 4, generator=drawn(), dtype=torch.float64)
    known = torch.arange(15) % 4 != 1
    targets = torch.rand(int(known.sum()), 2, generator=drawn(1))
    groups = torch.arange(len(targets)) % 3 if grouped else None
    products = rows @ rows.T
    given, expected = Ridge.of_products(products, known), Ridge.of(rows[known])
    weight, bias = given.fit(targets, 0.5)
    plain, plain_bias = expected.fit(targets, 0.5)
    torch.testing.assert_close(products @ weight + bias, rows @ plain + plain_bias)
    torch.testing.assert_close(given.left_out(targets, 0.5, groups), expected.left_out(targets, 0.5, groups))


def test_the_kernel_map_of_the_landmarks_has_their_likenesses_as_products() -> None:
    rows = torch.nn.functional.normalize(torch.randn(12, 5, generator=drawn(), dtype=torch.float64))
    kernel = likeness(rows, rows, 0.8)
    expected = [[float(torch.exp(-(a - b).square().sum() / (2 * 0.8**2))) for b in rows] for a in rows]
    torch.testing.assert_close(kernel, torch.tensor(expected, dtype=torch.float64))
    mapped = kernel @ whitening_of(rows, 0.8)
    torch.testing.assert_close(mapped @ mapped.T, kernel)


def test_landmarks_are_rows_at_equal_distances() -> None:
    assert spread_rows(3, 5).tolist() == [0, 1, 2]
    assert spread_rows(10, 4).tolist() == [0, 2, 5, 7]


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_the_similarity_is_the_sum_over_attributes_of_weight_times_the_cosine_of_posteriors(
    tmp_path: Path, kernel: str
) -> None:
    store, records = toy_attributes(tmp_path)
    config = replace(LINEAR, kernel=kernel, weights={"colour": 2.0, "kind": 0.5})  # type: ignore[arg-type]
    head = train_head(store, records, config)
    network = head.network
    assert isinstance(network, PosteriorNetwork)
    features = torch.from_numpy(np.asarray(store.read(records.digests)).astype(np.float32))
    predicted = network.predict(network.inputs(features))
    soft = [torch.softmax(part / 0.2, 1) for part in (predicted[:, :3], predicted[:, 3:])]
    cosines = [torch.nn.functional.cosine_similarity(part[:, None], part[None], dim=2) for part in soft]
    given = head(features.numpy())
    np.testing.assert_allclose(given @ given.T, (2 * cosines[0] + 0.5 * cosines[1]) / 2.5, atol=1e-5)
    assert (head.dim, head.summary.epoch) == (5, 0)


def test_fewer_numbers_keep_the_leading_axes_and_more_add_those_of_the_feature(tmp_path: Path) -> None:
    store, records = toy_attributes(tmp_path)
    features = np.asarray(store.read(records.digests))
    whole = train_head(store, records, LINEAR)(features)
    small = train_head(store, records, replace(LINEAR, dim=4))
    assert small.dim == 4
    assert np.abs(small(features) @ small(features).T - whole @ whole.T).max() < 0.1
    large = train_head(store, records, replace(LINEAR, dim=17, rest=(0.3,)))
    network = large.network
    assert isinstance(network, PosteriorNetwork)
    prepared = network.inputs(torch.from_numpy(features.astype(np.float32)))
    joined = torch.cat([torch.from_numpy(whole) * 2**0.5, 0.3**0.5 * prepared], 1).numpy()
    joined /= np.linalg.norm(joined, axis=1, keepdims=True)
    np.testing.assert_allclose(large(features) @ large(features).T, joined @ joined.T, atol=1e-5)


def test_an_attribute_of_several_values_counts_by_how_far_each_is_there(tmp_path: Path) -> None:
    store, records = toy_attributes(tmp_path)
    both = [f"{c}|{k}" for c, k in zip(records.attribute("colour"), records.attribute("kind"), strict=True)]
    records = with_columns(records, {"attributes.both": both})
    config = replace(LINEAR, attributes=AttributesConfig(names=("both",), several=("both",)))
    head = train_head(store, records, config)
    network = head.network
    assert isinstance(network, PosteriorNetwork)
    features = torch.from_numpy(np.asarray(store.read(records.digests)).astype(np.float32))
    clamped = network.predict(network.inputs(features)).clamp(0, 1).numpy()
    expected = clamped / np.linalg.norm(clamped, axis=1, keepdims=True)
    np.testing.assert_allclose(head(features.numpy()), expected, atol=1e-6)


@pytest.mark.parametrize("config", [LINEAR, replace(LINEAR, dim=4), replace(LINEAR, dim=9, kernel="rbf", landmarks=20)])
def test_a_head_is_saved_and_loaded_whole(tmp_path: Path, config: PosteriorHeadConfig) -> None:
    store, records = toy_attributes(tmp_path)
    head = train_head(store, records, config)
    head.save(tmp_path / "head")
    loaded = Head.load(tmp_path / "head", head.identity)
    features = np.asarray(store.read(records.digests))
    assert np.array_equal(loaded(features), head(features))
    assert loaded.dim == head.dim


def test_the_point_is_chosen_by_rows_that_are_predicted_without_themselves(tmp_path: Path) -> None:
    store, records = toy_attributes(tmp_path)
    config = replace(LINEAR, penalties=(1e3, 0.1), temperatures=(0.1, 0.2))
    head = train_head(store, records, config)
    assert "penalty 0.1," in head.summary.chosen_by
    assert "of images predicted without themselves" in head.summary.chosen_by


def test_the_weight_of_the_rest_is_chosen_too_and_by_classes_that_were_left_out(tmp_path: Path) -> None:
    store, records = toy_attributes(tmp_path)
    config = replace(LINEAR, dim=12, rest=(0.0, 0.5, 3.0), temperatures=(0.05, 0.5))
    by_images = train_head(store, records, config).summary.chosen_by
    by_classes = train_head(store, records, replace(config, judged="classes")).summary.chosen_by
    assert by_images != by_classes
    assert "rest " in by_images


def test_missing_values_are_left_out_of_their_own_regression_only(tmp_path: Path) -> None:
    store, records = toy_attributes(tmp_path)
    known = [*range(0, len(records), 2)]
    colours = [colour if at in known else None for at, colour in enumerate(records.attribute("colour"))]
    some = train_head(store, with_columns(records, {"attributes.colour": colours}), LINEAR).network
    whole = train_head(store, records, LINEAR).network
    assert isinstance(some, PosteriorNetwork)
    assert isinstance(whole, PosteriorNetwork)
    torch.testing.assert_close(some.weight[:, 3:], whole.weight[:, 3:])
    prepared = whole.inputs(torch.from_numpy(np.asarray(store.read(records.digests)).astype(np.float32)))
    onehot = torch.nn.functional.one_hot(torch.tensor([at // 20 for at in known]), 3)
    weight, _ = Ridge.of(prepared[known]).fit(onehot, 0.3)
    torch.testing.assert_close(some.weight[:, :3], weight.float(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"penalties": ()}, "penalties is one or more values .*, each once, above 0 and finite, got"),
        ({"roots": (2.0,)}, r"roots is one or more .* in \(0, 1\], got \[2.0\]"),
        ({"weights": {"colour": -1.0}}, r"weights\.colour is a weight of at least 0"),
        ({"landmarks": 0}, "landmarks is a number of rows"),
        ({"rest": (-0.1,)}, "rest is one or more .* at least 0"),
        ({"rest": ()}, "rest is one or more values"),
        ({"width": 0.0}, "width is a distance, above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PosteriorHeadConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": {"color": 1.0}}, "weights names 'color'; the attributes that are learned are colour, kind"),
        ({"weights": {"colour": 0.0, "kind": 0.0}}, "has the weight 0: nothing would be similar"),
        ({"dim": 18}, "5 values and 12 principal axes give at most 17"),
    ],
)
def test_what_the_attributes_cannot_give_is_refused(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    store, records = toy_attributes(tmp_path)
    with pytest.raises(ValueError, match=message):
        train_head(store, records, replace(LINEAR, **settings))  # type: ignore[arg-type]
