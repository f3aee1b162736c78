"""Closed forms of features that are hard, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from stages.training import (
    AveragePoolHeadConfig,
    LdaHeadConfig,
    LearnedWhiteningHeadConfig,
    PcaHeadConfig,
    RidgeHeadConfig,
    WhiteningHeadConfig,
    WithinHeadConfig,
)
from stages.training.closed_form.kinds import ClosedFormConfig
from tests.toys.closed_form import ALL, CENTERED, CLASSES, DIM, TURNABLE, fit, name_of, projected, toy


@pytest.mark.parametrize("config", ALL, ids=name_of)
def test_a_constant_column_is_fine(config: ClosedFormConfig) -> None:
    rows, labels, domains = toy()
    rows[:, 3] = 2.5
    assert np.isfinite(projected(fit(config, rows, labels, domains), rows)).all()
    raw = replace(config, inputs=CENTERED)
    assert np.isfinite(projected(fit(raw, rows, labels, domains), rows)).all()


@pytest.mark.parametrize("config", ALL, ids=name_of)
def test_classes_of_one_row_beside_larger_ones_are_fine(config: ClosedFormConfig) -> None:
    rows, labels, domains = toy(sizes=(1, 1, 8, 1, 9, 5, 1))
    assert np.isfinite(projected(fit(config, rows, labels, domains), rows)).all()


@pytest.mark.parametrize("config", [config for config in TURNABLE if config.kind != "learned_whitening"], ids=name_of)
def test_fewer_rows_than_dimensions_work_where_there_is_shrinkage(config: ClosedFormConfig) -> None:
    rows, labels, domains = toy(sizes=(2,) * 8, dim=40)
    assert np.isfinite(projected(fit(config, rows, labels, domains), rows)).all()


@pytest.mark.parametrize(
    "config",
    [LearnedWhiteningHeadConfig(dim=5), LdaHeadConfig(dim=5, shrinkage=0), WithinHeadConfig(dim=5, shrinkage=0)],
    ids=name_of,
)
def test_fewer_rows_than_dimensions_without_shrinkage_are_refused_with_what_to_do(config: ClosedFormConfig) -> None:
    rows, labels, domains = toy(sizes=(2,) * 8, dim=40)
    with pytest.raises(ValueError, match="16 rows of 8 classes vary within them in at most 8 of 40 directions: shrink"):
        fit(config, rows, labels, domains)


@pytest.mark.parametrize("config", [LearnedWhiteningHeadConfig(), LdaHeadConfig(), WithinHeadConfig()], ids=name_of)
def test_classes_of_one_row_alone_say_nothing_of_what_varies_within(config: ClosedFormConfig) -> None:
    rows, labels, domains = toy(sizes=(1,) * 30)
    with pytest.raises(ValueError, match="each of the 30 classes has one row"):
        fit(replace(config, dim=5), rows, labels, domains)


@pytest.mark.parametrize("config", [LearnedWhiteningHeadConfig(), LdaHeadConfig(), WithinHeadConfig()], ids=name_of)
def test_copies_of_one_image_a_class_say_nothing_of_what_varies_within(config: ClosedFormConfig) -> None:
    rows, labels, domains = toy(sizes=(1,) * 30)
    with pytest.raises(ValueError, match="the rows of each class are all alike"):
        fit(replace(config, dim=5), rows.repeat(3, 1), labels.repeat(3), domains.repeat(3))


@pytest.mark.parametrize(
    ("config", "most"),
    [
        (AveragePoolHeadConfig(), DIM),
        (LdaHeadConfig(), CLASSES - 1),
        (LearnedWhiteningHeadConfig(), DIM),
        (PcaHeadConfig(), DIM),
        (RidgeHeadConfig(), CLASSES - 1),
        (WhiteningHeadConfig(), DIM),
        (WithinHeadConfig(), DIM),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_more_dimensions_than_there_are_is_refused_with_their_number(config: ClosedFormConfig, most: int) -> None:
    rows, labels, domains = toy()
    config = replace(config, inputs=CENTERED)
    with pytest.raises(ValueError, match=f"dim is {most + 1}, .* give at most {most}: set dim to {most} or less"):
        fit(replace(config, dim=most + 1), rows, labels, domains)
    assert fit(replace(config, dim=most), rows, labels, domains).weight.shape == (most, DIM)


@pytest.mark.parametrize("config", [PcaHeadConfig(dim=7), WhiteningHeadConfig(dim=7)], ids=name_of)
def test_seven_rows_vary_in_six_directions(config: ClosedFormConfig) -> None:
    rows, labels, domains = toy(sizes=(3, 4))
    with pytest.raises(ValueError, match="7 rows of 12 dimensions give at most 6"):
        fit(config, rows, labels, domains)


def test_whitening_counts_the_directions_that_vary() -> None:
    rows, labels, domains = toy()
    rows[:, 3] = 2.5
    with pytest.raises(ValueError, match=r"the directions in which the features vary give at most 11"):
        fit(WhiteningHeadConfig(dim=12, inputs=CENTERED), rows, labels, domains)


def test_what_is_not_finite_is_refused() -> None:
    rows, labels, domains = toy()
    rows[5, 2] = torch.nan
    with pytest.raises(ValueError, match="hold a NaN or an infinite number"):
        fit(PcaHeadConfig(dim=5), rows, labels, domains)


@pytest.mark.parametrize("config", ALL, ids=name_of)
def test_shapes_that_do_not_fit_are_refused(config: ClosedFormConfig) -> None:
    rows, labels, domains = toy()
    with pytest.raises(ValueError, match=r"features have shape \(72, 12\).* rows of 8 \+ 5 dimensions"):
        config.fit(rows, labels, domains, [8, 5], seed=0)
    with pytest.raises(ValueError, match=r"72 features have labels of shape \(71,\) and domains of shape \(72,\)"):
        config.fit(rows, labels[1:], domains, [DIM], seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "pca", "dim": 0}, "dim is the size of an embedding, at least 1, got 0"),
        ({"kind": "pca", "dropout": 1.0}, r"dropout is the share of a feature set to zero, in \[0, 1\), got 1.0"),
        ({"kind": "pca", "strength": 1.0}, "strength"),
        ({"kind": "whitening", "strength": 1.5}, r"strength is a share, in \[0, 1\], got 1.5"),
        ({"kind": "within", "shrinkage": -0.5}, r"shrinkage is a share, in \[0, 1\] or ledoit_wolf, got -0.5"),
        ({"kind": "within", "shrinkage": "oas"}, "ledoit_wolf"),
        ({"kind": "lda", "shrinkage": 2}, r"shrinkage is a share, in \[0, 1\], got 2"),
        ({"kind": "ridge", "penalty": 0}, "penalty is in units of the mean eigenvalue, above 0 or gcv, got 0"),
    ],
)
def test_a_bad_setting_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(ClosedFormConfig).validate_python(settings)
