"""Intervals of a mean over queries, where queries of one class err together.

Queries of one class share the class: where a head fails on a class it fails on most of its queries. The classes, and
not the queries, are then what was sampled. With n queries in C classes, values x and mean p, let r_c be the sum of
(x - p) over the queries of class c. The variance of the mean (the linearised ratio estimator with classes as units, as
in survey sampling; the cluster-robust variance of econometrics) is

    v = C / (C - 1) * sum_c r_c^2 / n^2

Metrics lie in [0, 1], and near the ends a symmetric interval p +- t sqrt(v) does not cover. Wilson's interval for a
proportion of m trials does; m is taken such that p (1 - p) / m = v, the effective number of independent trials (Korn
and Graubard, Survey Methodology 1998; Franco et al., Journal of Survey Statistics and Methodology 2019). Where every
value is 0, or every value is 1, v says nothing and m is C.

The quantile is Student's. Its degrees of freedom are those of v: for normal r_c they are C - 1; where few classes carry
most of the variance (a large kurtosis k) v itself is uncertain, Var(v) / v^2 = (k - (C - 3) / (C - 1)) / C, and
Satterthwaite's rule 2 v^2 / Var(v) gives fewer. (Zeros and ones with one query a class are a plain binomial, whose
variance follows from p: there C - 1 stays.)

By simulation these cover .93 to .97 for 20 to 340 classes of 1 to 42 queries, with and without effects of the class,
for means from .06 to .8, and for .98 except where 20 classes share one or two bad ones; drawing queries anew covers .35
to .69 where classes matter (``tests/ranking/test_intervals.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cache.errors import SettingsError

Values = npt.NDArray[np.float64]


class Estimate(NamedTuple):
    """M means over the same queries, with what is known of their error; all (M,) but ``units``.

    ``freedom`` are the degrees of freedom of ``variance``, the variance of the mean; ``units`` is the number of
    classes. With one class both say nothing: the variance is infinite.
    """

    mean: Values
    variance: Values
    freedom: Values
    units: int


def estimate(values: npt.NDArray[np.floating], classes: npt.NDArray[np.integer]) -> Estimate:
    """The means of ``values`` (M, Q) of M metrics over Q queries whose class is ``classes`` (Q,), any whole numbers.

    Raises ValueError for no query, and where the shapes do not agree.

    >>> hits = np.array([[1.0, 1.0, 0.0, 0.0]])
    >>> apart, together = estimate(hits, np.arange(4)), estimate(hits, np.array([0, 0, 1, 1]))
    >>> float(apart.variance[0]) < float(together.variance[0])
    True
    """
    if values.ndim != 2 or classes.shape != values.shape[1:] or not len(classes):
        raise SettingsError(
            f"values must be (M, Q) and classes (Q,) with at least one query, got {values.shape} and {classes.shape}"
        )
    values = values.astype(np.float64)
    _, unit = np.unique(classes, return_inverse=True)
    units, mean = int(unit.max()) + 1, values.mean(axis=1)
    if units == 1:
        return Estimate(mean, np.full(len(mean), np.inf), np.ones(len(mean)), 1)
    residuals = np.stack([np.bincount(unit, row, minlength=units) for row in values - mean[:, None]])  # (M, C)
    squares = np.square(residuals).sum(axis=1)
    variance = units / (units - 1) * squares / values.shape[1] ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        kurtosis = units * np.square(np.square(residuals)).sum(axis=1) / squares**2
        freedom = np.clip(2 * units / (kurtosis - (units - 3) / (units - 1)), 1, units - 1)
    binomial = (units == len(classes)) & ((values == 0) | (values == 1)).all(axis=1)
    return Estimate(mean, variance, np.where(binomial | (squares == 0), units - 1, freedom), units)


def class_numbers(classes: Sequence[str | None]) -> npt.NDArray[np.int64]:
    """A whole number for each name (Q,), equal for equal names; a query whose class is not known (None) is alone.

    >>> class_numbers(["cup", None, "cup", None]).tolist()
    [0, 1, 0, 2]
    """
    numbers: dict[str | int, int] = {}
    names = (at if name is None else name for at, name in enumerate(classes))
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def ratio(errors: Values, trials: Values, classes: npt.NDArray[np.integer]) -> Estimate:
    """All errors (Q,) of all trials (Q,), with queries of the classes (Q,); at least one trial, and M = 1.

    A ratio p is linear to first order: its error is the mean of (errors - p * trials) / (the mean of the trials).

    >>> shares = ratio(np.array([1.0, 0.0, 2.0]), np.array([2.0, 4.0, 2.0]), np.arange(3))
    >>> float(shares.mean[0])
    0.375
    """
    tried = trials > 0
    errors, trials, classes = errors[tried], trials[tried], classes[tried]
    share, each = errors.sum() / trials.sum(), trials.mean()
    known = estimate((errors / each + share * (1 - trials / each))[None], classes)
    return known._replace(mean=np.array([share]))


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of the means of independent groups of queries, such as domains, each counting the same.

    Variances of independent means add up; the degrees of freedom are Welch and Satterthwaite's.

    >>> group = estimate(np.array([[0.0, 1.0, 1.0]]), np.arange(3))
    >>> float(mean_of([group, group]).variance[0] / group.variance[0])
    0.5
    """
    count = len(estimates)
    variances = np.stack([each.variance for each in estimates]) / count**2
    total = variances.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        parts = np.square(variances) / np.stack([each.freedom for each in estimates])
        freedom = np.square(total) / parts.sum(axis=0)
    units = sum(each.units for each in estimates)
    unknown = ~np.isfinite(freedom)
    return Estimate(
        np.mean([each.mean for each in estimates], axis=0),
        total,
        np.where(unknown, np.where(np.isinf(total), 1.0, units - count), freedom),
        units,
    )


def share_interval(known: Estimate, confidence: float = 0.95) -> tuple[Values, Values]:
    """The ends (M,) and (M,) of the interval of means that lie in [0, 1], by Wilson's formula; of one class [0, 1].

    With m = p (1 - p) / v effective trials and the quantile t, the ends solve |p - x| = t sqrt(x (1 - x) / m).

    >>> low, high = share_interval(estimate(np.ones((1, 20)), np.arange(20)))
    >>> round(float(low[0]), 2), float(high[0])
    (0.82, 1.0)
    """
    t = _quantile(known, confidence)
    spread = known.mean * (1 - known.mean)
    with np.errstate(invalid="ignore", divide="ignore"):
        trials = np.where(known.variance > 0, spread / known.variance, known.units)
        trials = np.where(spread > 0, trials, known.units)
        shrink = np.square(t) / trials
        middle = (known.mean + shrink / 2) / (1 + shrink)
        half = t * np.sqrt(spread / trials + shrink / (4 * trials)) / (1 + shrink)
    one = known.units == 1
    low = np.where(one | ~np.isfinite(half) | (known.mean <= 0), 0.0, middle - half)
    high = np.where(one | ~np.isfinite(half) | (known.mean >= 1), 1.0, middle + half)
    return np.clip(low, 0.0, known.mean), np.clip(high, known.mean, 1.0)


def difference_interval(known: Estimate, confidence: float = 0.95) -> tuple[Values, Values, Values]:
    """The ends (M,), (M,) and the two-sided p-value (M,) of mean differences of two shares, which lie in [-1, 1].

    Student's t on the classes. Where no class differs from the mean there is nothing to estimate an error from: with a
    mean of 0 the interval is that of C classes without a difference, else p is that of C equal signs.

    >>> difference = estimate(np.array([[0.2, 0.1, 0.3, 0.2, 0.1]]), np.arange(5))
    >>> low, high, p_value = difference_interval(difference)
    >>> bool(low[0] > 0), bool(p_value[0] < 0.05)
    (True, True)
    """
    from scipy.special import stdtr  # takes a third of a second to import

    t = _quantile(known, confidence)
    error = np.sqrt(known.variance)
    unknown = ~np.isfinite(error)
    with np.errstate(invalid="ignore", divide="ignore"):
        p_value = 2 * stdtr(known.freedom, -np.abs(known.mean) / error)
    equal = known.variance == 0
    p_value = np.where(equal, np.where(known.mean == 0, 1.0, min(1.0, 2.0 ** (1 - known.units))), p_value)
    half = np.where(unknown, np.inf, t * error)
    low, high = np.maximum(known.mean - half, -1.0), np.minimum(known.mean + half, 1.0)
    return low, high, np.where(unknown, 1.0, p_value)


def _quantile(known: Estimate, confidence: float) -> Values:
    if not 0 < confidence < 1:
        raise SettingsError(f"confidence is a share between 0 and 1, such as 0.95, got {confidence}")
    from scipy.special import stdtrit

    quantile: Values = stdtrit(known.freedom, (1 + confidence) / 2)
    return quantile
