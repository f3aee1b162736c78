"""The regularised discriminant against its formula in loops, and how its settings are chosen."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from stages.training import DiscriminantHeadConfig, WithinHeadConfig
from stages.training.closed_form.kinds import ClosedFormConfig
from tests.toys.discriminant import (
    DIM,
    PLAIN,
    SMALL,
    choose,
    embedded,
    fixed,
    formula,
    similarities,
    stepped,
    toy,
    two_domains,
)

Floats = npt.NDArray[np.float64]


@pytest.mark.parametrize("point", list(product([1.0, 0.5], [0.03, 0.5], [0.3, 1.0], [0.0, 0.3])))
@pytest.mark.parametrize("dim", [3, DIM])
def test_it_is_the_formula(point: tuple[float, float, float, float], dim: int) -> None:
    rows, labels, domains = toy(sizes=(2, 9, 6, 1, 5, 7))
    points, _ = stepped(rows, point[0])
    expected = similarities(points @ formula(points, labels.double().numpy(), *point[1:], dim))
    embeddings = embedded(fixed(*point, dim), rows, labels, domains)
    np.testing.assert_allclose(embeddings @ embeddings.T, expected, atol=2e-4)


@pytest.mark.parametrize("power", [0.0, 0.3])
def test_without_total_scatter_it_is_the_formula_in_the_span_of_the_class_means(power: float) -> None:
    rows, labels, domains = toy(sizes=(2, 9, 6, 1, 5, 7))
    points, _ = stepped(rows, 1.0)
    expected = similarities(points @ formula(points, labels.double().numpy(), 0.3, 0.0, power, 5))
    embeddings = embedded(fixed(1.0, 0.3, 0.0, power, 5), rows, labels, domains)
    np.testing.assert_allclose(embeddings @ embeddings.T, expected, atol=1e-3)


@pytest.mark.parametrize("total", [0.0, 0.3, 1.0])
def test_all_dimensions_at_power_0_are_within_class_whitening(total: float) -> None:
    rows, labels, domains = toy()
    whitened = WithinHeadConfig(dim=DIM, shrinkage=0.3, inputs=DiscriminantHeadConfig().inputs)
    expected = embedded(whitened, rows, labels, domains)
    embeddings = embedded(fixed(1.0, 0.3, total, 0.0, DIM), rows, labels, domains)
    np.testing.assert_allclose(embeddings @ embeddings.T, expected @ expected.T, atol=1e-4)


def test_turning_the_features_turns_no_similarity() -> None:
    rows, labels, domains = toy()
    turn = torch.from_numpy(np.linalg.qr(np.random.default_rng(1).normal(size=(DIM, DIM)))[0]).float()
    straight = embedded(SMALL, rows, labels, domains)
    turned = embedded(SMALL, rows @ turn, labels, domains)
    np.testing.assert_allclose(turned @ turned.T, straight @ straight.T, atol=1e-3)


# Domains


def test_a_domain_weighs_no_more_between_classes_for_being_there_three_times() -> None:
    rows, labels, domains = two_domains()
    config = replace(fixed(1.0, 1.0, 0.5, 0.15, 4), inputs=PLAIN)  # shrunk fully: only S_b and S_t are left
    again = torch.cat([torch.arange(len(rows)), *[torch.nonzero(domains == 1)[:, 0]] * 2])
    once = embedded(config, rows, labels, domains)
    thrice = embedded(config, rows[again], labels[again], domains[again])[: len(rows)]
    np.testing.assert_allclose(thrice @ thrice.T, once @ once.T, atol=1e-3)
    pooled = embedded(config, rows[again], labels[again], domains[again] * 0)[: len(rows)]
    assert np.abs(pooled @ pooled.T - once @ once.T).max() > 0.01


def test_one_label_in_two_domains_is_two_classes() -> None:
    rows, labels, domains = two_domains()
    config = fixed(1.0, 0.3, 0.5, 0.15, 4)
    apart, shared = (embedded(config, rows, named, domains) for named in (labels, labels % 8))
    np.testing.assert_allclose(shared, apart, atol=1e-5)


# What it refuses


@pytest.mark.parametrize(
    ("config", "sizes", "message"),
    [
        (fixed(1, 0.3, 0.3, 0, DIM + 1), (6,) * 12, "dim is 11, but features of 10 dimensions give at most 10"),
        (fixed(1, 0.3, 0, 0.3, 6), (6,) * 4, r"dim is 6, but the means of 4 classes.* give at most 3: set dim to 3"),
        (fixed(1, 0.3, 0.3, 0, 4), (6,), "takes two or more; the rows are of one"),
        (fixed(1, 0.3, 0.3, 0, 4), (1,) * 9, "each of the 9 classes has one row"),
    ],
)
def test_what_cannot_be_fitted_is_refused(config: DiscriminantHeadConfig, sizes: tuple[int, ...], message: str) -> None:
    rows, labels, domains = toy(sizes=sizes)
    with pytest.raises(ValueError, match=message):
        config.fit(rows, labels, domains, [DIM], seed=0)


def test_with_few_classes_only_powers_that_keep_all_dimensions_are_tried() -> None:
    rows, labels, domains = toy(sizes=(6,) * 6)
    config = replace(SMALL, dim=8, total=(0.0,))
    assert choose(config, rows, labels, domains, [DIM], seed=0)[0].power == (0.0,)
    config = replace(SMALL, dim=8, power=(0.5,))
    assert choose(config, rows, labels, domains, [DIM], seed=0)[0].total == (1.0,)


def test_fewer_rows_than_dimensions_and_a_constant_column_are_fine() -> None:
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(size=(24, 40))).float()
    rows[:, 3] = 0
    labels = torch.arange(8).repeat_interleave(3)
    for config in (DiscriminantHeadConfig(dim=5), DiscriminantHeadConfig(dim=40)):
        assert np.isfinite(embedded(config, rows, labels, labels * 0)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inputs": {"root": 0.5}}, r"set roots = \[0.5\], not inputs.root"),
        ({"roots": []}, r"roots is one or more values .* in \(0, 1\], got \[\]"),
        ({"roots": [0.5, 0.5]}, r"each once, in .*, got \[0.5, 0.5\]"),
        ({"shrinkage": [0.0, 0.5]}, r"shrinkage is one or more values .* in \(0, 1\]"),
        ({"total": [1.5]}, r"total is one or more values .* in \[0, 1\]"),
        ({"power": [-0.1]}, "power is one or more values .* at least 0"),
        ({"folds": 1}, "folds is a number of parts to hold out in turn, at least 2, got 1"),
        ({"shrink": [0.5]}, "shrink"),
    ],
)
def test_a_bad_setting_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(ClosedFormConfig).validate_python({"kind": "discriminant", **settings})


def test_a_head_that_was_built_takes_the_chosen_root_with_the_weights() -> None:
    rows, labels, domains = toy()
    config = replace(SMALL, roots=(0.5,))
    fitted = config.fit(rows, labels, domains, [DIM], seed=0)
    built = config.build([DIM], torch.Generator())
    assert not torch.equal(built.inputs(rows), fitted.inputs(rows))
    built.load_state_dict(fitted.state_dict())
    assert torch.equal(built(rows), fitted(rows))
