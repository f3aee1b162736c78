"""The regularised discriminant against its formula in loops, and how its numbers are chosen."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from stages.records import Records
from stages.training import train_head
from stages.training.closed_form import ClosedFormConfig, DiscriminantHeadConfig, WithinHeadConfig, folds, search
from stages.training.closed_form.classes import Classes
from stages.training.heads import InputsConfig
from stages.training.heads.inputs import Inputs
from stages.training.setup import prepare
from stages.training.validation import precisions
from tests import toy_training
from tests.toy_training import classes_of, make_records

Floats = npt.NDArray[np.float64]

DIM = 10
PLAIN = InputsConfig(center=False, rescale="none")
SMALL = DiscriminantHeadConfig(dim=4, roots=(1.0,), shrinkage=(0.1, 0.8), total=(0.0, 1.0), power=(0.0, 0.5))


def fixed(root: float, shrinkage: float, total: float, power: float, dim: int) -> DiscriminantHeadConfig:
    return DiscriminantHeadConfig(dim=dim, roots=(root,), shrinkage=(shrinkage,), total=(total,), power=(power,))


def toy(seed: int = 0, *, sizes: tuple[int, ...] = (6,) * 12, noise: float = 1.0) -> tuple[torch.Tensor, ...]:
    """Features (N, D) float32, labels (N,) and domains (N,): the first numbers tell the class, others are louder."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    centres = rng.normal(size=(len(sizes), DIM)) * np.linspace(1, 0.1, DIM)
    rows = centres[labels] + noise * rng.normal(size=(len(labels), DIM)) * np.linspace(0.3, 1.5, DIM) + 0.5
    return torch.from_numpy(rows.astype(np.float32)), torch.from_numpy(labels), torch.zeros(len(labels)).long()


def two_domains() -> tuple[torch.Tensor, ...]:
    """As ``toy``, but the classes from 8 on are of another domain, shifted away."""
    rows, labels, _ = toy(sizes=(6,) * 8 + (4,) * 8)
    domains = (labels >= 8).long()
    return rows + 2 * domains[:, None] * torch.linspace(-1, 1, DIM), labels, domains


def stepped(rows: torch.Tensor, root: float, mean: Floats | None = None) -> tuple[Floats, Floats]:
    """Signed root, unit length, less the mean, unit length; and the mean."""
    found = rows.double().numpy()
    found = np.sign(found) * np.abs(found) ** root
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    mean = found.mean(0) if mean is None else mean
    found = found - mean
    return found / np.linalg.norm(found, axis=1, keepdims=True), mean


def formula(rows: Floats, labels: Floats, g: float, b: float, p: float, dim: int) -> Floats:
    """The map (D, dim) as it is written down, for one domain."""
    groups = [rows[labels == label] for label in sorted(set(labels.tolist()))]
    within = sum((group - group.mean(0)).T @ (group - group.mean(0)) for group in groups) / len(rows)
    means = np.stack([group.mean(0) for group in groups])
    between = np.cov(means.T, bias=True)
    total = rows.T @ rows / len(rows)
    values, vectors = np.linalg.eigh((1 - g) * within + g * np.trace(within) / DIM * np.eye(DIM))
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    between, total = root @ between @ root, root @ total @ root
    scatter = (1 - b) * between + b * np.trace(between) / np.trace(total) * total
    values, vectors = np.linalg.eigh(scatter)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    return np.asarray(root @ vectors[:, :dim] * (values[:dim] / values[0]) ** p)


def similarities(vectors: Floats) -> Floats:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(unit @ unit.T)


def embedded(config: ClosedFormConfig, rows: torch.Tensor, labels: torch.Tensor, domains: torch.Tensor) -> Floats:
    head = config.fit(rows, labels, domains, [rows.shape[1]], seed=0)
    with torch.no_grad():
        return np.asarray(head(rows).double().numpy())


@pytest.mark.parametrize("point", list(product([1.0, 0.5], [0.03, 0.5], [0.3, 1.0], [0.0, 0.3])))
@pytest.mark.parametrize("dim", [3, DIM])
def test_it_is_the_formula(point: tuple[float, float, float, float], dim: int) -> None:
    rows, labels, domains = toy(sizes=(2, 9, 6, 1, 5, 7))
    points, _ = stepped(rows, point[0])
    expected = similarities(points @ formula(points, labels.double().numpy(), *point[1:], dim))
    found = embedded(fixed(*point, dim), rows, labels, domains)
    np.testing.assert_allclose(found @ found.T, expected, atol=2e-4)


@pytest.mark.parametrize("power", [0.0, 0.3])
def test_without_total_scatter_it_is_the_formula_in_the_span_of_the_class_means(power: float) -> None:
    rows, labels, domains = toy(sizes=(2, 9, 6, 1, 5, 7))
    points, _ = stepped(rows, 1.0)
    expected = similarities(points @ formula(points, labels.double().numpy(), 0.3, 0.0, power, 5))
    found = embedded(fixed(1.0, 0.3, 0.0, power, 5), rows, labels, domains)
    np.testing.assert_allclose(found @ found.T, expected, atol=1e-3)


@pytest.mark.parametrize("total", [0.0, 0.3, 1.0])
def test_all_dimensions_at_power_0_are_within_class_whitening(total: float) -> None:
    rows, labels, domains = toy()
    whitened = WithinHeadConfig(dim=DIM, shrinkage=0.3, inputs=DiscriminantHeadConfig().inputs)
    expected = embedded(whitened, rows, labels, domains)
    found = embedded(fixed(1.0, 0.3, total, 0.0, DIM), rows, labels, domains)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-4)


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


# Choosing


def by_loops(
    config: DiscriminantHeadConfig, rows: torch.Tensor, labels: torch.Tensor
) -> dict[tuple[float, ...], float]:
    """The score of each point of a grid of one root: each fold's classes searched by the discriminant of the others."""
    fold_of = folds.class_folds(Classes.of(labels, torch.zeros_like(labels)), config.folds, seed=0)[labels].numpy()
    names = labels.double().numpy()
    scores: dict[tuple[float, ...], float] = {}
    points, _ = stepped(rows, 1.0)
    for g, b, p in product(config.shrinkage, config.total, config.power):
        of_folds = []
        for fold in range(config.folds):
            held, held_names = points[fold_of == fold], names[fold_of == fold]
            mapped = held @ formula(points[fold_of != fold], names[fold_of != fold], g, b, p, config.dim)
            of_queries = []
            for query, row in enumerate(similarities(mapped)):
                relevant = (held_names == held_names[query]).sum() - 1
                if relevant:
                    near = [other for other in np.argsort(-row) if other != query][: min(5, relevant)]
                    of_queries.append(float(np.mean(held_names[near] == held_names[query])))
            of_folds.append(float(np.mean(of_queries)))
        scores[1.0, g, b, p] = float(np.mean(of_folds))
    return scores


@pytest.mark.parametrize("seed", range(3))
def test_the_point_of_the_highest_score_over_the_folds_is_chosen(seed: int) -> None:
    rows, labels, domains = toy(seed, sizes=(6, 2, 9, 1, 7, 6, 6, 1, 3, 8, 5, 6, 4, 6))
    chosen, score = SMALL.choose(rows, labels, domains, [DIM], seed=0)
    expected = by_loops(SMALL, rows, labels)
    assert score == pytest.approx(max(expected.values()), abs=1e-6)
    assert score == pytest.approx(
        expected[chosen.roots[0], chosen.shrinkage[0], chosen.total[0], chosen.power[0]], abs=1e-6
    )


def test_fitting_is_fitting_what_was_chosen_and_that_chooses_nothing() -> None:
    rows, labels, domains = toy()
    chosen, score = DiscriminantHeadConfig(dim=4).choose(rows, labels, domains, [DIM], seed=0)
    assert score is not None
    assert {len(values) for values in (chosen.roots, chosen.shrinkage, chosen.total, chosen.power)} == {1}
    assert chosen.choose(rows, labels, domains, [DIM], seed=0) == (chosen, None)
    whole, named = (
        config.fit(rows, labels, domains, [DIM], seed=0) for config in (DiscriminantHeadConfig(dim=4), chosen)
    )
    assert torch.equal(whole.weight, named.weight)
    assert float(whole.inputs.root) == chosen.roots[0]


def test_a_root_is_chosen_where_a_few_loud_numbers_drown_what_tells_the_class() -> None:
    rng = np.random.default_rng(0)
    labels = torch.arange(18).repeat_interleave(8)
    quiet = np.repeat(rng.random((18, 8)), 8, 0) + 0.05 * rng.random((144, 8))
    rows = torch.from_numpy(np.concatenate([quiet, rng.exponential(60.0, (144, 2))], 1)).float()
    config = DiscriminantHeadConfig(dim=6, roots=(1.0, 0.5), shrinkage=(0.9,), total=(1.0,), power=(0.0,))
    chosen, _ = config.choose(rows, labels, labels * 0, [DIM], seed=0)
    assert chosen.roots == (0.5,)
    reversed_, _ = replace(config, roots=(0.5, 1.0)).choose(rows, labels, labels * 0, [DIM], seed=0)
    assert reversed_.roots == (0.5,)


def test_choosing_is_the_same_for_any_order_of_rows_and_any_names() -> None:
    rows, labels, domains = two_domains()
    config = DiscriminantHeadConfig(dim=4)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(3))
    first, score = config.choose(rows, labels, domains, [DIM], seed=0)
    again, other = config.choose(rows[order], 7 * labels[order] + 5, domains[order] + 2, [DIM], seed=0)
    assert again == first
    assert other == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize("sizes", [(5, 5, 5), (5, 5, 5, 1, 1, 1, 1)])
def test_with_fewer_than_four_classes_to_hold_out_the_middle_of_the_grid_is_taken(sizes: tuple[int, ...]) -> None:
    rows, labels, domains = toy(sizes=sizes)
    chosen, score = DiscriminantHeadConfig(dim=4).choose(rows, labels, domains, [DIM], seed=0)
    assert score is None
    assert (chosen.roots, chosen.shrinkage, chosen.total, chosen.power) == ((0.7,), (0.3,), (0.3,), (0.15,))


def test_four_classes_are_held_out_in_two_folds() -> None:
    rows, labels, domains = toy(sizes=(5, 5, 5, 5))
    assert DiscriminantHeadConfig(dim=4).choose(rows, labels, domains, [DIM], seed=0)[1] is not None


# Folds


def test_each_fold_gets_its_share_of_every_domain_and_of_classes_that_can_be_searched_for() -> None:
    sizes = torch.tensor([3] * 7 + [1] * 5 + [2] * 6 + [1] * 4)
    domains = torch.tensor([0] * 12 + [1] * 10)
    classes = Classes(torch.arange(22).repeat_interleave(sizes), sizes, domains)
    fold = folds.class_folds(classes, 3, seed=1)
    for domain, searchable in product((0, 1), (True, False)):
        counts = torch.bincount(fold[(domains == domain) & ((sizes > 1) == searchable)], minlength=3)
        assert counts.max() - counts.min() <= 1
    assert torch.equal(fold, folds.class_folds(classes, 3, seed=1))
    assert not torch.equal(fold, folds.class_folds(classes, 3, seed=2))


def test_no_fold_is_left_without_a_class_that_can_be_searched_for() -> None:
    sizes = torch.tensor([2, 1, 1] * 6)  # six domains, each of one class that can be
    classes = Classes(torch.arange(18).repeat_interleave(sizes), sizes, torch.arange(18) // 3)
    fold = folds.class_folds(classes, 3, seed=0)
    assert torch.bincount(fold[sizes > 1], minlength=3).tolist() == [2, 2, 2]


def test_of_a_large_set_no_more_rows_and_classes_are_drawn_than_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = torch.tensor([100, 2, 3, 40, 1, 5, 2, 2, 60, 1])
    classes = Classes(torch.arange(10).repeat_interleave(sizes), sizes, torch.zeros(10).long())
    assert folds.drawn_rows(classes, seed=0) is None
    monkeypatch.setattr(folds, "_ROWS", 60)
    monkeypatch.setattr(folds, "_CLASSES", 8)
    drawn = folds.drawn_rows(classes, seed=0)
    assert drawn is not None
    kept = torch.bincount(classes.of_row[drawn], minlength=10)
    assert 40 <= len(drawn) <= 60
    assert len(drawn.unique()) == len(drawn)  # type: ignore[no-untyped-call]
    assert (kept > 0).tolist() == (sizes > 1).tolist()  # eight: those that can be searched for come first
    most = kept.max()
    assert all(kept[c] in (0, min(most, sizes[c])) for c in range(10))  # a class gives all it has, or as much as any


def test_a_large_set_is_chosen_for_from_what_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels, domains = toy(sizes=(8,) * 20)
    monkeypatch.setattr(folds, "_ROWS", 80)
    monkeypatch.setattr(folds, "_QUERIES", 20)
    _, score = SMALL.choose(rows, labels, domains, [DIM], seed=0)
    assert score is not None
    assert 0 < score <= 1


def test_rows_that_lie_in_few_directions_lose_nothing_in_as_many() -> None:
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(size=(50, 6)) @ rng.normal(size=(6, 40))).float()
    classes = Classes.of(torch.arange(50) % 5, torch.zeros(50).long())
    few = folds.reduced(Inputs(PLAIN, [40]), rows, classes, 6, seed=0)
    assert few.shape == (50, 6)
    torch.testing.assert_close(few @ few.T, rows @ rows.T, rtol=1e-4, atol=1e-3)


def test_fewer_directions_than_numbers_choose_as_all_do_where_the_rest_is_quiet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, labels, domains = toy()
    wide = torch.cat([rows, 1e-4 * torch.randn(len(rows), 30, generator=torch.Generator().manual_seed(0))], 1)
    config = replace(SMALL, shrinkage=(0.3, 0.8))
    whole = config.choose(wide, labels, domains, [40], seed=0)
    for name, value in (("_LEAST", 10), ("_MARGIN", 6)):
        monkeypatch.setattr(search, name, value)
    few = config.choose(wide, labels, domains, [40], seed=0)
    assert few[0] == whole[0]
    assert few[1] == pytest.approx(whole[1], abs=0.02)


def test_a_query_with_nothing_to_find_has_no_precision() -> None:
    rows = torch.nn.functional.normalize(toy(sizes=(3, 1))[0])
    labels = torch.tensor([0, 0, 0, 1])
    found = precisions(rows, rows, labels, labels, torch.arange(4))
    assert found.isnan().tolist() == [False, False, False, True]


# What it refuses


@pytest.mark.parametrize(
    ("config", "sizes", "said"),
    [
        (fixed(1, 0.3, 0.3, 0, DIM + 1), (6,) * 12, "dim is 11, but features of 10 numbers give at most 10"),
        (fixed(1, 0.3, 0, 0.3, 6), (6,) * 4, r"dim is 6, but the means of 4 classes.* give at most 3: set dim to 3"),
        (fixed(1, 0.3, 0.3, 0, 4), (6,), "takes two or more; the rows are of one"),
        (fixed(1, 0.3, 0.3, 0, 4), (1,) * 9, "each of the 9 classes has one row"),
    ],
)
def test_what_cannot_be_fitted_is_refused(config: DiscriminantHeadConfig, sizes: tuple[int, ...], said: str) -> None:
    rows, labels, domains = toy(sizes=sizes)
    with pytest.raises(ValueError, match=said):
        config.fit(rows, labels, domains, [DIM], seed=0)


def test_with_few_classes_only_powers_that_keep_all_dimensions_are_tried() -> None:
    rows, labels, domains = toy(sizes=(6,) * 6)
    config = replace(SMALL, dim=8, total=(0.0,))
    assert config.choose(rows, labels, domains, [DIM], seed=0)[0].power == (0.0,)
    config = replace(SMALL, dim=8, power=(0.5,))
    assert config.choose(rows, labels, domains, [DIM], seed=0)[0].total == (1.0,)


def test_fewer_rows_than_numbers_and_a_constant_column_are_fine() -> None:
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(size=(24, 40))).float()
    rows[:, 3] = 0
    labels = torch.arange(8).repeat_interleave(3)
    for config in (DiscriminantHeadConfig(dim=5), DiscriminantHeadConfig(dim=40)):
        assert np.isfinite(embedded(config, rows, labels, labels * 0)).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"inputs": {"root": 0.5}}, r"set roots = \[0.5\], not inputs.root"),
        ({"roots": []}, r"roots holds one or more numbers in \(0, 1\].*, got \[\]"),
        ({"roots": [0.5, 0.5]}, r"each once, got \[0.5, 0.5\]"),
        ({"shrinkage": [0.0, 0.5]}, r"shrinkage holds one or more numbers in \(0, 1\]"),
        ({"total": [1.5]}, r"total holds one or more numbers in \[0, 1\]"),
        ({"power": [-0.1]}, "power holds one or more numbers of at least 0"),
        ({"folds": 1}, "folds is a number of parts to hold out in turn, at least 2, got 1"),
        ({"shrink": [0.5]}, "shrink"),
    ],
)
def test_a_bad_setting_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(ClosedFormConfig).validate_python({"kind": "discriminant", **settings})


def test_a_head_that_was_built_takes_the_chosen_root_with_the_weights() -> None:
    rows, labels, domains = toy()
    config = replace(SMALL, roots=(0.5,))
    fitted = config.fit(rows, labels, domains, [DIM], seed=0)
    built = config.build([DIM], torch.Generator())
    assert not torch.equal(built.inputs(rows), fitted.inputs(rows))
    built.load_state_dict(fitted.state_dict())
    assert torch.equal(built(rows), fitted(rows))


def test_rows_of_every_class_are_dealt_to_all_folds() -> None:
    labels = torch.tensor([0] * 7 + [1] * 3 + [2] * 2)[torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    fold = folds.row_folds(Classes.of(labels, torch.zeros_like(labels)), 3, seed=1)
    for label, expected in ((0, [2, 2, 3]), (1, [1, 1, 1]), (2, [0, 1, 1])):
        assert sorted(int((fold[labels == label] == part).sum()) for part in range(3)) == expected


def test_validation_records_of_trained_classes_choose_by_rows_and_those_of_new_ones_by_classes(tmp_path: Path) -> None:
    labels, new = classes_of(12, 8), classes_of(6, 4, first=50)
    store, _ = toy_training.toy(tmp_path, labels | new)
    kept = {key: label for key, label in labels.items() if not key.endswith("-7")}
    seen = make_records({key: label for key, label in labels.items() if key not in kept})
    gallery, records, unseen = make_records(kept), make_records(kept), make_records(new)
    config = DiscriminantHeadConfig(dim=4)

    def start(config: DiscriminantHeadConfig, validation: tuple[Records, Records] | None) -> object:
        return prepare(store, records, config, None, validation=validation).start

    assert start(config, (seen, gallery)) == replace(config, over="rows")
    assert start(config, (unseen, unseen)) == replace(config, over="classes")
    assert start(config, None) == config
    assert start(replace(config, over="classes"), (seen, gallery)) == replace(config, over="classes")
    features = torch.from_numpy(store.read(records.digests))
    numbers = torch.tensor([int(str(label).split()[1]) for label in records.labels])
    zero = torch.zeros_like(numbers)
    by_rows, score = replace(config, over="rows").choose(features, numbers, zero, [store.dim], 0)
    assert score is not None
    head = train_head(store, records, config, validation=(seen, gallery))
    expected = by_rows.fit(features, numbers, zero, [store.dim], 0)(torch.from_numpy(store.read(seen.digests)))
    np.testing.assert_allclose(head(store.read(seen.digests)), expected.detach().numpy(), atol=1e-5)
