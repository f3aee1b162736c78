from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from stages.training.recipe import TrainingConfig
from stages.training.rows import sampling
from stages.training.rows.sampling import (
    BalancedConfig,
    ClassesByImagesConfig,
    DomainWeighted,
    DomainWeightsConfig,
    OneDomainConfig,
    SamplingConfig,
    ShuffledConfig,
    apportion,
    block_order,
    build_sampler,
    powered,
)

LABELS = np.repeat(np.arange(4), [40, 10, 5, 1])
DOMAINS = np.repeat(np.arange(3), [40, 12, 4])


def epochs(config: SamplingConfig, *, batch_size: int = 8, count: int = 2, seed: int = 0) -> list[list[list[int]]]:
    sampler = build_sampler(config, LABELS, DOMAINS, batch_size)
    visited = [
        [batch.tolist() for batch in sampler.epoch(np.random.default_rng((seed, number)))] for number in range(count)
    ]
    assert {len(batches) for batches in visited} == {sampler.steps}
    return visited


EVERY = [
    ShuffledConfig(),
    BalancedConfig(),
    BalancedConfig(power=0.5),
    ClassesByImagesConfig(images=2),
    OneDomainConfig(),
    DomainWeightsConfig(),
]


@pytest.mark.parametrize("config", EVERY, ids=str)
def test_an_epoch_is_the_same_for_the_same_seed_and_no_other_and_holds_rows_that_there_are(
    config: SamplingConfig,
) -> None:
    first, second = epochs(config)
    assert [first, second] == epochs(config)
    assert first != second
    assert first != epochs(config, seed=1)[0]
    assert {row for batch in first for row in batch} <= set(range(56))


def test_shuffled_rows_come_once_each() -> None:
    for batches in epochs(ShuffledConfig()):
        assert [len(batch) for batch in batches] == [8] * 7
        assert sorted(row for batch in batches for row in batch) == list(range(56))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_a_class_is_drawn_in_proportion_to_a_power_of_its_size_and_its_rows_as_often_as_each_other(
    power: float,
) -> None:
    sizes = [40, 10, 5, 1]
    total = sum(size**power for size in sizes)
    for batches in epochs(BalancedConfig(power=power), count=5):
        rows = [row for batch in batches for row in batch]
        assert len(rows) == 56
        drawn = Counter(LABELS[rows].tolist())
        for label, size in enumerate(sizes):
            assert abs(drawn[label] - 56 * size**power / total) < 1
            times = Counter(row for row in rows if LABELS[row] == label)
            spread = [times[row] for row in np.flatnonzero(label == LABELS).tolist()]
            assert max(spread) - min(spread) <= 1


def test_what_is_shared_out_is_rounded_and_on_average_right() -> None:
    shares = np.array([0.5, 0.21, 0.29])
    rng = np.random.default_rng(0)
    counts = np.array([apportion(10, shares, rng) for _ in range(4000)])
    assert (counts.sum(1) == 10).all()
    assert (np.abs(counts - 10 * shares) < 1).all()
    np.testing.assert_allclose(counts.mean(0), 10 * shares, atol=0.05)


def test_a_batch_of_classes_by_images_has_so_many_classes_of_so_many_rows_each() -> None:
    seen: Counter[int] = Counter()
    for batches in epochs(ClassesByImagesConfig(images=2), batch_size=6, count=3):
        assert len(batches) == math.ceil(56 / 6)
        for batch in batches:
            labels = LABELS[batch].reshape(3, 2)
            assert (labels[:, 0] == labels[:, 1]).all()
            assert len(set(labels[:, 0].tolist())) == 3
            for place, label in enumerate(labels[:, 0].tolist()):
                if label != 3:  # the class of one row repeats it
                    assert batch[2 * place] != batch[2 * place + 1]
            seen.update(labels[:, 0].tolist())
    assert max(seen.values()) - min(seen.values()) <= 3  # by turns: at most one an epoch


def test_classes_by_images_takes_all_classes_where_there_are_fewer_than_a_batch_wants() -> None:
    for batch in epochs(ClassesByImagesConfig(images=2), batch_size=32, count=1)[0]:
        assert sorted(Counter(LABELS[batch].tolist()).items()) == [(label, 2) for label in range(4)]


def test_a_batch_size_that_no_number_of_classes_gives_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a multiple of sampling\.images \(3\), got 128"):
        TrainingConfig(sampling=ClassesByImagesConfig(images=3))


def test_domains_take_turns_whatever_their_size_and_a_batch_has_one() -> None:
    for batches in epochs(OneDomainConfig(), batch_size=4):
        turns = []
        for batch in batches:
            (domain,) = set(DOMAINS[batch].tolist())
            turns.append(domain)
            assert len(batch) == 4
        assert len(turns) == 15  # 14 batches of 4 rows would be 56; three domains take turns five times
        assert all(sorted(turns[low : low + 3]) == [0, 1, 2] for low in range(0, 15, 3))
        large = [row for batch in batches for row in batch if DOMAINS[row] == 0]
        assert len(set(large)) == len(large) == 20  # none of its 40 rows again


def test_weights_of_domains_move_as_the_formula_says() -> None:
    sampler = build_sampler(DomainWeightsConfig(), LABELS, DOMAINS, 8)
    assert isinstance(sampler, DomainWeighted)
    weights = [40 / 56, 12 / 56, 4 / 56]
    losses = [0.1, 0.5, 0.9]
    mean = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
    grown = [weight * math.exp(loss - mean) for weight, loss in zip(weights, losses, strict=True)]
    sampler.move(np.array(losses))
    np.testing.assert_allclose(sampler.weights, [weight / sum(grown) for weight in grown])
    np.testing.assert_allclose(sampler.shares, [0.9 * weight / sum(grown) + 0.1 / 3 for weight in grown])
    rows = np.concatenate(sampler.epoch(np.random.default_rng(0)))
    assert len(rows) == 56
    assert (np.abs(np.bincount(DOMAINS[rows]) - 56 * sampler.shares) < 1).all()


def test_a_block_shuffle_visits_each_row_once_and_stays_near_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "BLOCK_ROWS", 10)
    monkeypatch.setattr(sampling, "WINDOW_BLOCKS", 3)
    order = block_order(97, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(97))
    lows = [0, *np.cumsum([len(w) for w in _windows(order)]).tolist()]
    for low, high in pairwise(lows):
        window = order[low:high]
        assert len({row // 10 for row in window.tolist()}) <= 3
        assert window.tolist() != sorted(window.tolist())
    assert order.tolist() != block_order(97, np.random.default_rng(1)).tolist()


def _windows(order: np.ndarray) -> list[np.ndarray]:
    """Cut where a fourth block begins: a window is over then."""
    windows, current, blocks = [], list[int](), set[int]()
    for row in order.tolist():
        if row // 10 not in blocks and len(blocks) == 3:
            windows.append(np.array(current))
            current, blocks = [], set()
        current.append(row)
        blocks.add(row // 10)
    return [*windows, np.array(current)]


def test_a_power_between_none_and_size_gives_shares_between() -> None:
    np.testing.assert_allclose(powered(np.array([16, 4]), 0.5), [2 / 3, 1 / 3])


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (BalancedConfig, {"power": 2.0}, "power is 0 for equal shares"),
        (ClassesByImagesConfig, {"images": 0}, "images is the number of rows of a class"),
    ],
)
def test_a_bad_setting_of_sampling_is_refused(config: type, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**settings)
