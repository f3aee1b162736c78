"""Closed forms against scikit-learn, loops, and what must change nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge

from stages.training import (
    AveragePoolHeadConfig,
    InputsConfig,
    LdaHeadConfig,
    LearnedWhiteningHeadConfig,
    PcaHeadConfig,
    RidgeHeadConfig,
    WhiteningHeadConfig,
    WithinHeadConfig,
)
from stages.training.closed_form import statistics
from stages.training.closed_form.kinds import ClosedFormConfig
from tests.toys.closed_form import (
    ALL,
    CENTERED,
    CLASSES,
    DIM,
    PLAIN,
    TURNABLE,
    fit,
    name_of,
    projected,
    residuals,
    similarities,
    toy,
)

Floats = npt.NDArray[np.float64]


# Against scikit-learn and loops


def test_pca_gives_the_similarities_of_scikit_learn() -> None:
    rows, labels, domains = toy()
    head = fit(PcaHeadConfig(dim=4, inputs=CENTERED), rows, labels, domains)
    expected = PCA(4, svd_solver="full").fit_transform(rows.double().numpy())
    np.testing.assert_allclose(similarities(projected(head, rows)), similarities(expected), atol=1e-4)


def test_full_whitening_gives_the_similarities_of_scikit_learn_and_strength_0_is_pca() -> None:
    rows, labels, domains = toy()
    head = fit(WhiteningHeadConfig(dim=6, inputs=CENTERED), rows, labels, domains)
    expected = PCA(6, svd_solver="full", whiten=True).fit_transform(rows.double().numpy())
    np.testing.assert_allclose(similarities(projected(head, rows)), similarities(expected), atol=1e-4)
    flat = fit(WhiteningHeadConfig(dim=6, strength=0, inputs=CENTERED), rows, labels, domains)
    plain = fit(PcaHeadConfig(dim=6, inputs=CENTERED), rows, labels, domains)
    torch.testing.assert_close(flat.weight, plain.weight)


def test_whitening_by_half_divides_by_the_fourth_root_of_the_eigenvalues() -> None:
    rows, labels, domains = toy()
    head = fit(WhiteningHeadConfig(dim=DIM, strength=0.5, inputs=CENTERED), rows, labels, domains)
    values, vectors = np.linalg.eigh(np.cov(rows.double().numpy().T, bias=True))
    centred = rows.double().numpy() - rows.double().numpy().mean(0)
    expected = centred @ vectors * values**-0.25
    np.testing.assert_allclose(similarities(projected(head, rows)), similarities(expected), atol=1e-4)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_within_makes_the_shrunk_covariance_within_classes_the_identity(shrinkage: float) -> None:
    rows, labels, domains = toy()
    head = fit(WithinHeadConfig(dim=DIM, shrinkage=shrinkage, inputs=PLAIN), rows, labels, domains)
    apart = residuals(rows.double().numpy(), labels)
    covariance = apart.T @ apart / len(apart)
    covariance = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / DIM * np.eye(DIM)
    weight = head.weight.detach().double().numpy()
    np.testing.assert_allclose(weight @ covariance @ weight.T, np.eye(DIM), atol=1e-4)


def test_within_shrinks_as_the_ledoit_wolf_of_scikit_learn_does() -> None:
    rows, labels, domains = toy(sizes=(2, 3, 1, 6, 4))  # few rows: the shrinkage is well inside (0, 1)
    estimate = LedoitWolf(assume_centered=True).fit(residuals(rows.double().numpy(), labels))
    assert 0.1 < estimate.shrinkage_ < 0.9
    given = fit(WithinHeadConfig(dim=DIM, inputs=PLAIN), rows, labels, domains)
    weight = given.weight.detach().double().numpy()
    np.testing.assert_allclose(weight @ estimate.covariance_ @ weight.T, np.eye(DIM), atol=1e-4)


def test_within_keeps_the_principal_components_of_the_whitened_rows() -> None:
    rows, labels, domains = toy()
    full = projected(fit(WithinHeadConfig(dim=DIM, inputs=CENTERED), rows, labels, domains), rows)
    few = projected(fit(WithinHeadConfig(dim=3, inputs=CENTERED), rows, labels, domains), rows)
    expected = PCA(3, svd_solver="full").fit_transform(full)
    np.testing.assert_allclose(similarities(few), similarities(expected), atol=1e-4)


def whitenlearn(rows: Floats, labels: list[int], dim: int) -> Floats:
    """Lw as it is published, over all pairs: rows (N, D) as it maps them, (N, dim)."""
    pairs = [
        rows[i] - rows[j] for i in range(len(labels)) for j in range(len(labels)) if i != j and labels[i] == labels[j]
    ]
    spread = sum(np.outer(pair, pair) for pair in pairs) / len(pairs)
    whitened = (rows - rows.mean(0)) @ np.linalg.inv(np.linalg.cholesky(spread)).T
    values, vectors = np.linalg.eigh(whitened.T @ whitened)
    return np.asarray(whitened @ vectors[:, values.argsort()[::-1][:dim]])


def test_learned_whitening_equals_the_published_one_over_a_loop_of_pairs() -> None:
    rows, labels, domains = toy(sizes=(2, 9, 1, 6, 4, 5))
    head = fit(LearnedWhiteningHeadConfig(dim=4, inputs=CENTERED), rows, labels, domains)
    expected = whitenlearn(rows.double().numpy(), labels.tolist(), 4)
    np.testing.assert_allclose(np.abs(projected(head, rows)), np.abs(expected), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 0.5])
def test_lda_gives_the_similarities_of_scikit_learn(shrinkage: float) -> None:
    rows, labels, domains = toy(sizes=(5, 9, 7, 12, 4, 20))
    head = fit(LdaHeadConfig(dim=4, shrinkage=shrinkage, inputs=PLAIN), rows, labels, domains)
    other = LinearDiscriminantAnalysis(solver="eigen", shrinkage=shrinkage, n_components=4)
    expected = other.fit(rows.double().numpy(), labels.numpy()).transform(rows.double().numpy())
    np.testing.assert_allclose(similarities(projected(head, rows)), similarities(expected), atol=1e-3)


@pytest.mark.parametrize("penalty", [0.01, 1.0])
def test_ridge_of_all_dimensions_gives_the_similarities_of_scikit_learns_predictions(penalty: float) -> None:
    rows, labels, domains = toy(sizes=(5, 9, 7, 12, 4, 20))
    head = fit(RidgeHeadConfig(dim=5, penalty=penalty, inputs=CENTERED), rows, labels, domains)
    points, indicators = rows.double().numpy(), np.eye(6)[labels.numpy()]
    level = np.trace(np.cov(points.T, bias=True)) / DIM
    predictions = Ridge(alpha=penalty * level * len(rows)).fit(points, indicators).predict(points)
    expected = similarities(predictions - predictions.mean(0))
    np.testing.assert_allclose(similarities(projected(head, rows)), expected, atol=1e-3)


def test_ridge_keeps_the_principal_axes_of_the_predictions() -> None:
    rows, labels, domains = toy()
    full = projected(fit(RidgeHeadConfig(dim=8, inputs=CENTERED), rows, labels, domains), rows)
    few = projected(fit(RidgeHeadConfig(dim=3, inputs=CENTERED), rows, labels, domains), rows)
    expected = PCA(3, svd_solver="full").fit_transform(full)
    np.testing.assert_allclose(similarities(few), similarities(expected), atol=1e-3)


def test_ridge_takes_the_penalty_of_the_least_generalised_cross_validation_error() -> None:
    rows, labels, domains = toy()
    points, indicators = rows.double().numpy(), np.eye(CLASSES)[labels.numpy()]
    points, indicators = points - points.mean(0), indicators - indicators.mean(0)
    level = np.trace(points.T @ points) / len(points) / DIM
    errors = {}
    for penalty in np.logspace(-4, 3, 29):
        ridge = points.T @ points + penalty * level * len(points) * np.eye(DIM)
        hat = points @ np.linalg.inv(ridge) @ points.T + np.full((len(points), len(points)), 1 / len(points))
        left = ((indicators - hat @ indicators) ** 2).sum() / len(points)
        errors[penalty] = left / (1 - np.trace(hat) / len(points)) ** 2
    best = min(errors, key=lambda penalty: errors[penalty])
    assert 1e-4 < best < 1e3
    chosen = fit(RidgeHeadConfig(dim=5, inputs=CENTERED), rows, labels, domains)
    named = fit(RidgeHeadConfig(dim=5, penalty=float(best), inputs=CENTERED), rows, labels, domains)
    torch.testing.assert_close(chosen.weight, named.weight)


@pytest.mark.parametrize("dim", [1, 5, DIM])
def test_average_pool_is_the_mean_of_neighbours(dim: int) -> None:
    rows, labels, domains = toy()
    given = projected(fit(AveragePoolHeadConfig(dim=dim), rows, labels, domains), rows)
    for row, pooled in zip(rows.double().numpy(), given, strict=True):
        expected = [row[e * DIM // dim : -((-(e + 1) * DIM) // dim)].mean() for e in range(dim)]
        np.testing.assert_allclose(pooled, expected, atol=1e-5)


# What must change nothing


@pytest.mark.parametrize("config", ALL, ids=name_of)
def test_the_order_of_the_rows_and_the_names_of_the_classes_change_nothing(config: ClosedFormConfig) -> None:
    rows, labels, domains = toy()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(3))
    first = fit(config, rows, labels, domains)
    again = fit(config, rows[order], 1000 - 7 * labels[order], domains[order] + 5)
    np.testing.assert_allclose(similarities(projected(again, rows)), similarities(projected(first, rows)), atol=1e-3)


@pytest.mark.parametrize("config", ALL, ids=name_of)
def test_the_blocks_of_rows_change_nothing(config: ClosedFormConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels, domains = toy()
    whole = fit(config, rows, labels, domains)
    monkeypatch.setattr(statistics, "_BLOCK", 7)
    parts = fit(config, rows, labels, domains)
    torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("config", TURNABLE, ids=name_of)
def test_turning_the_features_turns_no_similarity(config: ClosedFormConfig) -> None:
    rows, labels, domains = toy()
    turn = torch.from_numpy(np.linalg.qr(np.random.default_rng(1).normal(size=(DIM, DIM)))[0]).float()
    straight = projected(fit(config, rows, labels, domains), rows)
    turned = projected(fit(config, rows @ turn, labels, domains), rows @ turn)
    np.testing.assert_allclose(similarities(turned), similarities(straight), atol=2e-3)


@pytest.mark.parametrize("config", ALL, ids=name_of)
def test_the_same_rows_give_the_same_bits(config: ClosedFormConfig) -> None:
    rows, labels, domains = toy()
    first, again = fit(config, rows.half(), labels, domains), fit(config, rows.half(), labels, domains)
    assert torch.equal(first.weight, again.weight)
    assert first.weight.dtype == torch.float32
    assert first.weight.shape == (5, DIM)


@pytest.mark.parametrize("config", ALL, ids=name_of)
def test_the_features_are_left_as_they_were(config: ClosedFormConfig) -> None:
    rows, labels, domains = toy()
    before = rows.clone()
    fit(replace(config, inputs=PLAIN), rows, labels, domains)
    assert torch.equal(rows, before)


@pytest.mark.parametrize("config", ALL, ids=name_of)
def test_a_large_offset_of_raw_features_costs_no_precision(config: ClosedFormConfig) -> None:
    rows, labels, domains = toy()
    config = replace(config, inputs=CENTERED)
    near = projected(fit(config, rows, labels, domains), rows)
    far = projected(fit(config, rows + 300, labels, domains), rows + 300)
    if config.kind == "average_pool":
        return
    np.testing.assert_allclose(similarities(far), similarities(near), atol=5e-3)


# The head that it becomes


@pytest.mark.parametrize("config", ALL, ids=name_of)
def test_a_head_that_was_built_takes_the_weights_of_one_that_was_fitted(config: ClosedFormConfig) -> None:
    rows, labels, domains = toy()
    config = replace(config, inputs=InputsConfig(root=0.5, unit=True, rescale="unit"))
    fitted = fit(config, rows, labels, domains)
    built = config.build([DIM], torch.Generator())
    built.load_state_dict(fitted.state_dict())
    assert torch.equal(built(rows), fitted(rows))
    assert not fitted.bias.any()
    assert fitted.dropouts == (config.dropout,)


def test_features_side_by_side_are_each_brought_to_unit_length_before_the_sums() -> None:
    rows, labels, domains = toy()
    louder = torch.cat([rows[:, :5], 50 * rows[:, 5:]], 1)
    heads = [PcaHeadConfig(dim=5).fit(each, labels, domains, [5, DIM - 5], seed=0) for each in (rows, louder)]
    torch.testing.assert_close(heads[1].weight, heads[0].weight, rtol=1e-3, atol=1e-4)
