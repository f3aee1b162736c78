"""Intervals cover what they say they cover: by simulation of classes that err together, and against known formulas."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from stages.ranking.intervals import difference_interval, estimate, mean_of, share_interval

DATASETS = 2000


def simulated(kind: str, classes: int, queries: int, mean: float, effect: float) -> npt.NDArray[np.float64]:
    """Values (datasets, classes x queries) of a metric whose expectation is ``mean``, by the beta-binomial model.

    ``effect`` is the correlation of two queries of a class.
    """
    rng = np.random.default_rng([classes, queries, int(100 * mean), int(10 * effect), len(kind)])
    share = np.full((DATASETS, classes, 1), mean)
    if effect:
        share = rng.beta(mean * (1 - effect) / effect, (1 - mean) * (1 - effect) / effect, (DATASETS, classes, 1))
    if kind == "hit":
        values = (rng.random((DATASETS, classes, queries)) < share).astype(float)
    else:
        alpha, beta = (np.maximum(1.5 * part, 1e-9) for part in (share, 1 - share))
        probabilities = rng.beta(alpha, beta, (DATASETS, classes, queries))
        values = rng.binomial(5, probabilities) / 5 if kind == "mmp@5" else probabilities
    return values.reshape(DATASETS, -1)


@pytest.mark.parametrize("kind", ["hit", "mmp@5", "map@r"])
@pytest.mark.parametrize(
    ("classes", "queries", "effect"),
    [
        *(
            (classes, queries, effect)
            for classes in (20, 50, 98)
            for queries, effect in [(1, 0.0), (5, 0.2), (42, 0.2)]
        ),
        *[(20, 5, 0.0), (50, 42, 0.0), (340, 1, 0.0), (340, 5, 0.2)],
    ],
)
@pytest.mark.parametrize("mean", [0.3, 0.8])
def test_an_interval_covers_the_mean_of_all_classes(
    kind: str, classes: int, queries: int, effect: float, mean: float
) -> None:
    values = simulated(kind, classes, queries, mean, effect)
    low, high = share_interval(estimate(values, np.repeat(np.arange(classes), queries)))
    covered = ((low <= mean) & (mean <= high)).mean()
    assert (
        0.925 <= covered <= 0.985
    )  # .93 to .97, and twice the simulation's own error and the steps of 20 zeros and ones


@pytest.mark.parametrize("kind", ["hit", "mmp@5"])
@pytest.mark.parametrize(("classes", "queries"), [(20, 1), (20, 5), (98, 1), (98, 5), (50, 42)])
@pytest.mark.parametrize("mean", [0.06, 0.98])
def test_near_its_ends_too(kind: str, classes: int, queries: int, mean: float) -> None:
    values = simulated(kind, classes, queries, mean, effect=0.2 if queries > 1 else 0.0)
    low, high = share_interval(estimate(values, np.repeat(np.arange(classes), queries)))
    assert ((low <= mean) & (mean <= high)).mean() >= 0.92


@pytest.mark.parametrize(("classes", "queries"), [(20, 5), (98, 42), (340, 1)])
def test_at_most_six_in_a_hundred_differences_of_nothing_are_called_one(classes: int, queries: int) -> None:
    effect = 0.2 if queries > 1 else 0.0
    first, second = (simulated("mmp@5", classes, queries, 0.5, effect) for _ in range(2))
    rng = np.random.default_rng(0)
    turned = rng.permutation(DATASETS)  # the same distribution, another draw: no true difference
    labels = np.repeat(np.arange(classes), queries)
    low, high, p_value = difference_interval(estimate(first - second[turned], labels))
    assert ((low > 0) | (high < 0)).mean() <= 0.06
    assert (p_value < 0.05).mean() <= 0.06


def test_with_one_query_a_class_it_is_the_interval_of_wilson_with_students_quantile() -> None:
    hits = np.array([[1.0] * 13 + [0.0] * 7])
    low, high = share_interval(estimate(hits, np.arange(20)))
    trials = 19.0  # the unbiased variance of n zeros and ones is p (1 - p) / (n - 1)
    z = stats.t.ppf(0.975, 19)
    middle = (0.65 + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(0.65 * 0.35 / trials + z * z / (4 * trials**2))
    np.testing.assert_allclose([low[0], high[0]], [middle - half, middle + half])


def test_the_variance_is_that_of_class_means_where_classes_are_of_one_size() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((1, 30))
    known = estimate(values, np.repeat(np.arange(6), 5))
    means = values.reshape(6, 5).mean(axis=1)
    np.testing.assert_allclose(known.variance[0], means.var(ddof=1) / 6)


def test_the_order_and_the_names_of_classes_change_nothing() -> None:
    rng = np.random.default_rng(1)
    values, labels = rng.random((2, 40)), rng.integers(0, 9, 40)
    order = rng.permutation(40)
    for first, second in zip(estimate(values, labels), estimate(values[:, order], 7 * labels[order] - 3), strict=True):
        np.testing.assert_allclose(np.asarray(first), np.asarray(second))


def test_all_right_and_all_wrong_leave_room_for_what_was_not_seen() -> None:
    low, high = share_interval(estimate(np.array([[1.0] * 20, [0.0] * 20]), np.arange(20)))
    assert (high[0], low[1]) == (1.0, 0.0)
    assert 0.75 < low[0] < 0.9
    np.testing.assert_allclose(low[0], 1 - high[1])


def test_of_one_class_nothing_is_known_about_others() -> None:
    known = estimate(np.array([[0.2, 0.4]]), np.zeros(2, int))
    assert [float(end[0]) for end in share_interval(known)] == [0.0, 1.0]
    assert [float(end[0]) for end in difference_interval(known)] == [-1.0, 1.0, 1.0]


def test_a_mean_of_domains_has_the_variance_of_independent_means() -> None:
    rng = np.random.default_rng(2)
    parts = [estimate(rng.random((1, size)), np.arange(size)) for size in (30, 60, 10)]
    together = mean_of(parts)
    np.testing.assert_allclose(together.variance[0], sum(part.variance[0] for part in parts) / 9)
    assert min(part.freedom[0] for part in parts) <= together.freedom[0] <= sum(part.freedom[0] for part in parts)


def test_what_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one query"):
        estimate(np.zeros((1, 0)), np.zeros(0, int))
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2,\)"):
        estimate(np.zeros((2, 3)), np.zeros(2, int))
    with pytest.raises(ValueError, match="confidence is a share"):
        share_interval(estimate(np.ones((1, 2)), np.arange(2)), 95.0)
