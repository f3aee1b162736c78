from __future__ import annotations

import numpy as np
import pytest

from cache.errors import ConfigError
from stages.ranking.by_class import class_folds

CLASSES = [f"{domain}{number}" for domain in "ab" for number in range(6) for _ in range(2 + number % 2)]
DOMAINS = [name[0] for name in CLASSES]


def test_a_class_is_wholly_in_one_fold_and_every_class_in_some() -> None:
    folds = class_folds(CLASSES, DOMAINS, 3, seed=0)
    held = [{name for name, inside in zip(CLASSES, fold, strict=True) if inside} for fold in folds]
    learned = [{name for name, inside in zip(CLASSES, fold, strict=True) if not inside} for fold in folds]
    assert all(not inside & outside for inside, outside in zip(held, learned, strict=True))
    assert sorted(name for inside in held for name in inside) == sorted(set(CLASSES))


def test_every_fold_has_its_share_of_each_domain() -> None:
    for fold in class_folds(CLASSES, DOMAINS, 3, seed=1):
        held = {name for name, inside in zip(CLASSES, fold, strict=True) if inside}
        assert sorted(name[0] for name in held) == ["a", "a", "b", "b"]


def test_folds_follow_from_the_seed_and_the_names_not_from_the_order_of_rows() -> None:
    shuffled = np.random.default_rng(0).permutation(len(CLASSES))
    straight = class_folds(CLASSES, DOMAINS, 3, seed=0)
    other = class_folds([CLASSES[row] for row in shuffled], [DOMAINS[row] for row in shuffled], 3, seed=0)
    assert all((one[shuffled] == two).all() for one, two in zip(straight, other, strict=True))
    again = class_folds(CLASSES, DOMAINS, 3, seed=5)
    assert any((one != two).any() for one, two in zip(straight, again, strict=True))


def test_a_class_of_one_row_is_in_no_fold() -> None:
    folds = class_folds([*CLASSES, "single"], [*DOMAINS, None], 2, seed=0)
    assert not any(fold[-1] for fold in folds)


def test_too_few_classes_are_refused_with_both_numbers() -> None:
    with pytest.raises(ConfigError, match=r"sweep\.folds = 3 needs at least 6 training classes .* there are 5"):
        class_folds([f"c{n // 2}" for n in range(10)], [None] * 10, 3, seed=0)


def test_a_label_is_held_out_in_all_its_domains_together() -> None:
    labels = [name[1] for name in CLASSES]  # the same six in both domains
    for fold in class_folds(labels, DOMAINS, 3, seed=0):
        held = {label for label, inside in zip(labels, fold, strict=True) if inside}
        assert len(held) == 2
        assert fold.tolist() == [label in held for label in labels]
