from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from stages.analysis import metric_bounds, score_bounds
from stages.ranking import find_metric
from stages.retrieval.protocols import UnedConfig
from tests.oracles import retrieval as oracle
from tests.toys.rankings import records_of

CLOSED = (
    "precision@3",
    "recall@3",
    "hit@2",
    "mmp@3",
    "map@r",
    "map",
    "r_precision",
    "mrr",
    "mrr@2",
    "ndcg",
    "ndcg@4",
    "map@3/min",
    "map@3/r",
    "map@3/k",
    "map_trapezoid",
    "map@2/hits",
    "map@5/hits",
    "mp@3",
    "mp@5",
)


def every_order(name: str, relevant: int, searched: int) -> list[float]:
    """The metric of every order of so many rows."""
    tables = [np.isin(np.arange(searched), ranks)[None] for ranks in itertools.combinations(range(searched), relevant)]
    return [float(find_metric(name).function(table, np.array([relevant]))[0]) for table in tables]


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize(("relevant", "searched"), [(1, 1), (1, 6), (3, 7), (5, 6), (4, 4)])
def test_the_floor_is_the_mean_over_every_order_and_the_ceiling_the_best_of_them(
    name: str, relevant: int, searched: int
) -> None:
    bounds = metric_bounds(name, np.array([relevant]), np.array([searched]))
    values = every_order(name, relevant, searched)
    assert bounds.floor[0] == pytest.approx(sum(values) / len(values))
    assert bounds.ceiling[0] == pytest.approx(max(values))


def test_the_chance_of_a_hit_is_hypergeometric_and_precision_by_chance_is_the_share_of_what_is_relevant() -> None:
    counts = np.array([4, 40]), np.array([5000, 4000])
    hit = metric_bounds("hit@10", *counts).floor
    expected = [1 - math.comb(n - r, 10) / math.comb(n, 10) for r, n in zip(*counts, strict=True)]
    np.testing.assert_allclose(hit, expected)
    precision = metric_bounds("precision@10", *counts)
    np.testing.assert_allclose(precision.floor, [4 / 5000, 0.01])
    np.testing.assert_allclose(precision.ceiling, [0.4, 1.0])  # min(1, R / k)
    np.testing.assert_allclose(metric_bounds("recall@10", *counts).ceiling, [1.0, 0.25])


def test_nothing_relevant_has_no_bounds_and_more_relevant_than_searched_is_refused() -> None:
    bounds = metric_bounds("map", np.array([0]), np.array([5]))
    assert (bounds.floor[0], bounds.ceiling[0]) == (0, 0)
    with pytest.raises(ValueError, match="at least as many rows as are relevant"):
        metric_bounds("map", np.array([6]), np.array([5]))


def test_bounds_of_scores_are_means_over_queries_of_a_domain_and_over_domains() -> None:
    labels = {f"{c}{i}": c for c, size in (("a", 2), ("b", 3), ("c", 4)) for i in range(size)} | {"lone": "d"}
    domains = {key: "toys" if key[0] == "c" else "cars" for key in labels}
    records = records_of(labels, domains=domains)
    bounds = score_bounds(records, records, ["precision@2", "map@r"])
    floors = {key: (sum(k[0] == key[0] for k in labels) - 1) / 9 for key in labels if key != "lone"}
    cars = [value for key, value in floors.items() if key[0] != "c"]
    toys = [value for key, value in floors.items() if key[0] == "c"]
    assert bounds["precision@2", "all"][0] == pytest.approx(sum(floors.values()) / 9)
    assert bounds["precision@2", "cars"] == pytest.approx((sum(cars) / 5, (0.5 * 2 + 1.0 * 3) / 5))
    assert bounds["precision@2", "mean"][0] == pytest.approx((sum(cars) / 5 + sum(toys) / 4) / 2)
    assert bounds["map@r", "all"][1] == 1


def test_a_gallery_of_its_own_for_each_domain_raises_the_floor() -> None:
    labels = {f"{c}{i}": c for c in "abcd" for i in range(3)}
    records = records_of(labels, domains={key: "toys" if key[0] < "c" else "cars" for key in labels})
    merged, own = (
        score_bounds(records, records, ["hit@1"], UnedConfig(gallery=gallery)) for gallery in ("merged", "separate")
    )
    assert merged["hit@1", "toys"][0] == pytest.approx(2 / 11)
    assert own["hit@1", "toys"][0] == pytest.approx(2 / 5)


def test_the_oracle_agrees_with_the_ceiling_of_a_perfect_ranking() -> None:
    for name in ("mmp@5", "map@r", "map", "recall@3", "precision@2", "hit@1"):
        for relevant in (1, 2, 7):
            bounds = metric_bounds(name, np.array([relevant]), np.array([20]))
            assert bounds.ceiling[0] == pytest.approx(oracle.metric(name, [i < relevant for i in range(20)], relevant))
