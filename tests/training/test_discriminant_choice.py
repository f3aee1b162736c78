"""How the numbers of the discriminant are chosen, by classes and rows that are left out."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from stages.records import Records
from stages.training import DiscriminantHeadConfig, HeadRecipe, train_head
from stages.training.closed_form import cross_validation
from stages.training.closed_form.statistics import Classes
from stages.training.heads.networks import Inputs
from stages.training.rows.labelled_rows import in_training_order
from stages.training.rows.validation import mmp5
from stages.training.training_inputs import prepare
from tests.toys import training as toy_training
from tests.toys.discriminant import DIM, PLAIN, SMALL, choose, formula, similarities, stepped, toy, two_domains
from tests.toys.training import classes_of, make_records


def by_loops(
    config: DiscriminantHeadConfig, rows: torch.Tensor, labels: torch.Tensor
) -> dict[tuple[float, ...], float]:
    """The score of each point of a grid of one root: each fold's classes searched by the discriminant of the others."""
    fold_of = cross_validation.fold_of_class(Classes.of(labels, torch.zeros_like(labels)), config.folds, seed=0)[
        labels
    ].numpy()
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
    chosen, score = choose(SMALL, rows, labels, domains, [DIM], seed=0)
    expected = by_loops(SMALL, rows, labels)
    assert score == pytest.approx(max(expected.values()), abs=1e-6)
    assert score == pytest.approx(
        expected[chosen.roots[0], chosen.shrinkage[0], chosen.total[0], chosen.power[0]], abs=1e-6
    )


def test_fitting_is_fitting_what_was_chosen_and_that_chooses_nothing() -> None:
    rows, labels, domains = toy()
    chosen, score = choose(DiscriminantHeadConfig(dim=4), rows, labels, domains, [DIM], seed=0)
    assert score is not None
    assert {len(values) for values in (chosen.roots, chosen.shrinkage, chosen.total, chosen.power)} == {1}
    assert choose(chosen, rows, labels, domains, [DIM], seed=0) == (chosen, None)
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
    chosen, _ = choose(config, rows, labels, labels * 0, [DIM], seed=0)
    assert chosen.roots == (0.5,)
    reversed_, _ = choose(replace(config, roots=(0.5, 1.0)), rows, labels, labels * 0, [DIM], seed=0)
    assert reversed_.roots == (0.5,)


def test_choosing_is_the_same_for_any_order_of_rows_and_any_names() -> None:
    rows, labels, domains = two_domains()
    config = DiscriminantHeadConfig(dim=4)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(3))
    first, score = choose(config, rows, labels, domains, [DIM], seed=0)
    again, other = choose(config, rows[order], 7 * labels[order] + 5, domains[order] + 2, [DIM], seed=0)
    assert again == first
    assert other == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize("sizes", [(5, 5, 5), (5, 5, 5, 1, 1, 1, 1)])
def test_with_fewer_than_four_classes_to_hold_out_the_middle_of_the_grid_is_taken(sizes: tuple[int, ...]) -> None:
    rows, labels, domains = toy(sizes=sizes)
    chosen, score = choose(DiscriminantHeadConfig(dim=4), rows, labels, domains, [DIM], seed=0)
    assert score is None
    assert (chosen.roots, chosen.shrinkage, chosen.total, chosen.power) == ((0.7,), (0.3,), (0.3,), (0.15,))


def test_four_classes_are_held_out_in_two_folds() -> None:
    rows, labels, domains = toy(sizes=(5, 5, 5, 5))
    assert choose(DiscriminantHeadConfig(dim=4), rows, labels, domains, [DIM], seed=0)[1] is not None


# Folds


def test_each_fold_gets_its_share_of_every_domain_and_of_classes_that_can_be_searched_for() -> None:
    sizes = torch.tensor([3] * 7 + [1] * 5 + [2] * 6 + [1] * 4)
    domains = torch.tensor([0] * 12 + [1] * 10)
    classes = Classes(torch.arange(22).repeat_interleave(sizes), sizes, domains, torch.arange(22))
    fold = cross_validation.fold_of_class(classes, 3, seed=1)
    for domain, searchable in product((0, 1), (True, False)):
        counts = torch.bincount(fold[(domains == domain) & ((sizes > 1) == searchable)], minlength=3)
        assert counts.max() - counts.min() <= 1
    assert torch.equal(fold, cross_validation.fold_of_class(classes, 3, seed=1))
    assert not torch.equal(fold, cross_validation.fold_of_class(classes, 3, seed=2))


def test_a_label_is_in_one_fold_in_all_its_domains() -> None:
    rng = np.random.default_rng(0)
    labels, domains = torch.from_numpy(rng.integers(0, 13, 300)), torch.from_numpy(rng.integers(0, 3, 300))
    classes = Classes.of(labels, domains)
    assert classes.count > 30
    fold_of_row = cross_validation.fold_of_class(classes, 3, seed=1)[classes.of_row]
    folds_of = [{*fold_of_row[labels == label].tolist()} for label in range(13)]
    assert sorted(sum(folds == {fold} for folds in folds_of) for fold in range(3)) == [4, 4, 5]
    part = torch.from_numpy(rng.permutation(300)[:200])
    for_part = classes.take(part)
    assert torch.equal(for_part.labels[for_part.of_row], labels[part])


def test_three_labels_in_two_domains_are_too_few_to_hold_out() -> None:
    rows, labels, _ = toy(sizes=(6, 6, 6))
    assert choose(DiscriminantHeadConfig(dim=4), rows, labels, torch.arange(18) % 2, [DIM], seed=0)[1] is None


def test_a_trained_discriminant_is_chosen_by_labels_that_no_domain_has_learned(tmp_path: Path) -> None:
    labels = classes_of(12, 8)
    store, _ = toy_training.toy(tmp_path, labels)
    domains = [("photo", "art")[int(key[-1]) % 2] for key in labels]
    names = [f"{domain} {label}" for domain, label in zip(domains, labels.values(), strict=True)]
    config = DiscriminantHeadConfig(dim=4)
    chosen = []
    for given, folds in ((labels, "a label in all its domains"), (dict(zip(labels, names, strict=True)), None)):
        table = make_records(given).table.drop_columns("domain").append_column("domain", pa.array(domains))
        records = in_training_order(Records(table, {}))
        label, domain = (
            torch.from_numpy(np.unique([str(name) for name in column], return_inverse=True)[1])
            for column in (records.labels, records.domains)
        )
        features = torch.from_numpy(store.read(records.digests))
        expected = config.fit(features, label, domain, [store.dim], 0)(features)
        head = train_head(store, records, config)
        assert head.identity.fields.get("folds") == folds
        chosen.append(head(features.numpy()))
        np.testing.assert_allclose(chosen[-1], expected.detach().numpy(), atol=1e-5)
    assert not np.allclose(chosen[0], chosen[1], atol=1e-3)


def test_no_fold_is_left_without_a_class_that_can_be_searched_for() -> None:
    sizes = torch.tensor([2, 1, 1] * 6)  # six domains, each of one class that can be
    classes = Classes(torch.arange(18).repeat_interleave(sizes), sizes, torch.arange(18) // 3, torch.arange(18))
    fold = cross_validation.fold_of_class(classes, 3, seed=0)
    assert torch.bincount(fold[sizes > 1], minlength=3).tolist() == [2, 2, 2]


def test_of_a_large_set_no_more_rows_and_classes_are_drawn_than_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = torch.tensor([100, 2, 3, 40, 1, 5, 2, 2, 60, 1])
    classes = Classes(torch.arange(10).repeat_interleave(sizes), sizes, torch.zeros(10).long(), torch.arange(10))
    assert cross_validation.drawn_rows(classes, seed=0) is None
    monkeypatch.setattr(cross_validation, "_ROWS", 60)
    monkeypatch.setattr(cross_validation, "_CLASSES", 8)
    drawn = cross_validation.drawn_rows(classes, seed=0)
    assert drawn is not None
    counts = torch.bincount(classes.of_row[drawn], minlength=10)
    assert 40 <= len(drawn) <= 60
    assert len(drawn.unique()) == len(drawn)  # type: ignore[no-untyped-call]
    assert (counts > 0).tolist() == (sizes > 1).tolist()  # eight: those that can be searched for come first
    most = counts.max()
    assert all(counts[c] in (0, min(most, sizes[c])) for c in range(10))  # a class gives all it has, or as much as any


def test_a_large_set_is_chosen_for_from_what_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels, domains = toy(sizes=(8,) * 20)
    monkeypatch.setattr(cross_validation, "_ROWS", 80)
    monkeypatch.setattr(cross_validation, "_QUERIES", 20)
    _, score = choose(SMALL, rows, labels, domains, [DIM], seed=0)
    assert score is not None
    assert 0 < score <= 1


def test_rows_that_lie_in_few_directions_lose_nothing_in_as_many() -> None:
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(size=(50, 6)) @ rng.normal(size=(6, 40))).float()
    classes = Classes.of(torch.arange(50) % 5, torch.zeros(50).long())
    few = cross_validation.reduced(Inputs(PLAIN, [40]), rows, classes, 6, seed=0)
    assert few.shape == (50, 6)
    torch.testing.assert_close(few @ few.T, rows @ rows.T, rtol=1e-4, atol=1e-3)


def test_fewer_directions_than_numbers_choose_as_all_do_where_the_rest_is_quiet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, labels, domains = toy()
    wide = torch.cat([rows, 1e-4 * torch.randn(len(rows), 30, generator=torch.Generator().manual_seed(0))], 1)
    config = replace(SMALL, shrinkage=(0.3, 0.8))
    whole = choose(config, wide, labels, domains, [40], seed=0)
    for name, value in (("_LEAST", 10), ("_MARGIN", 6)):
        monkeypatch.setattr(cross_validation, name, value)
    few = choose(config, wide, labels, domains, [40], seed=0)
    assert few[0] == whole[0]
    assert few[1] == pytest.approx(whole[1], abs=0.02)


def test_a_query_with_nothing_to_find_has_no_precision() -> None:
    rows = torch.nn.functional.normalize(toy(sizes=(3, 1))[0])
    labels = torch.tensor([0, 0, 0, 1])
    values = mmp5(rows, rows, labels, labels, torch.arange(4))
    assert values.isnan().tolist() == [False, False, False, True]


def test_rows_of_every_class_are_dealt_to_all_folds() -> None:
    labels = torch.tensor([0] * 7 + [1] * 3 + [2] * 2)[torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    fold = cross_validation.row_folds(Classes.of(labels, torch.zeros_like(labels)), 3, seed=1)
    for label, expected in ((0, [2, 2, 3]), (1, [1, 1, 1]), (2, [0, 1, 1])):
        assert sorted(int((fold[labels == label] == part).sum()) for part in range(3)) == expected


def test_validation_records_of_trained_classes_choose_by_rows_and_those_of_new_ones_by_classes(tmp_path: Path) -> None:
    labels, new = classes_of(12, 8), classes_of(6, 4, first=50)
    store, _ = toy_training.toy(tmp_path, labels | new)
    remaining = {key: label for key, label in labels.items() if not key.endswith("-7")}
    seen = make_records({key: label for key, label in labels.items() if key not in remaining})
    gallery, records, unseen = make_records(remaining), make_records(remaining), make_records(new)
    config = DiscriminantHeadConfig(dim=4)

    def start(config: DiscriminantHeadConfig, validation: tuple[Records, Records] | None) -> object:
        return prepare(store, records, HeadRecipe(config), validation=validation).closed_form

    assert start(config, (seen, gallery)) == replace(config, over="rows")
    assert start(config, (unseen, unseen)) == replace(config, over="classes")
    assert start(config, None) == config
    assert start(replace(config, over="classes"), (seen, gallery)) == replace(config, over="classes")
    records = in_training_order(records)
    features = torch.from_numpy(store.read(records.digests))
    numbers = torch.tensor([int(str(label).split()[1]) for label in records.labels])
    zero = torch.zeros_like(numbers)
    by_rows, score = choose(replace(config, over="rows"), features, numbers, zero, [store.dim], 0)
    assert score is not None
    head = train_head(store, records, config, validation=(seen, gallery))
    expected = by_rows.fit(features, numbers, zero, [store.dim], 0)(torch.from_numpy(store.read(seen.digests)))
    np.testing.assert_allclose(head(store.read(seen.digests)), expected.detach().numpy(), atol=1e-5)
