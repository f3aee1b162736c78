from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cache.errors import NothingToScoreError
from stages.analysis.open_set import Kind, comparisons, decide
from stages.analysis.thresholds import choose_thresholds, threshold_at
from stages.ranking import unit_length
from stages.ranking.intervals import estimate, share_interval
from stages.records import Records
from stages.retrieval import QuerySet
from tests.oracles import retrieval as oracle
from tests.toys.rankings import classes_of, random_vectors, records_of, store_of


def pairs_of(
    vectors: dict[str, npt.NDArray[np.floating]], labels: dict[str, str | None], queries: list[str], gallery: list[str]
) -> dict[str, list[tuple[float, bool, str]]]:
    """For each query its comparisons: (similarity, mated, gallery key), itself left out."""
    unit = dict(zip(vectors, unit_length(np.stack(list(vectors.values())).astype(np.float16)), strict=True))
    return {
        query: [
            (oracle.similarity(unit[query], unit[key]), labels[key] == labels[query], key)
            for key in gallery
            if key != query
        ]
        for query in queries
    }


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), threshold=st.sampled_from([-0.5, 0.0, 0.25, 0.5, 0.9]))
def test_every_rate_is_that_of_the_standard_counted_pair_by_pair(
    tmp_path_factory: pytest.TempPathFactory, seed: int, threshold: float
) -> None:
    rng = np.random.default_rng(seed)
    keys = [f"k{i}" for i in range(24)]
    labels: dict[str, str | None] = {key: f"class {rng.integers(0, 6)}" for key in keys}
    labels["k23"] = None  # a distractor
    vectors = dict(zip(keys, rng.normal(size=(24, 3)), strict=True))
    records = records_of(labels)
    queries, gallery = keys[:14], keys[6:]
    result = comparisons(
        store_of(tmp_path_factory.mktemp("store"), vectors),
        QuerySet.of(records.take(np.arange(14)), records.take(np.arange(6, 24))),
    )
    rates = decide(threshold, result).rates()
    pairs = pairs_of(vectors, labels, queries, gallery)
    mated = [s for of_query in pairs.values() for s, mate, _ in of_query if mate]
    others = [s for of_query in pairs.values() for s, mate, _ in of_query if not mate]
    assert rates.fmr[0] == pytest.approx(sum(s >= threshold for s in others) / len(others))
    assert (rates.fmr.trials, rates.fnmr.trials) == (len(others), len(mated))
    assert rates.fnmr[0] == pytest.approx(sum(s < threshold for s in mated) / len(mated))
    non_mated_searches = [max(s for s, mate, _ in of_query if not mate) for of_query in pairs.values()]
    assert rates.fpir[0] == pytest.approx(sum(s >= threshold for s in non_mated_searches) / 14)
    searches = [of_query for of_query in pairs.values() if any(mate for _, mate, _ in of_query)]
    firsts = [max(of_query, key=lambda pair: pair[0]) for of_query in searches]
    assert rates.fnir.trials == rates.answered.trials == len(firsts)
    assert rates.answered[0] == pytest.approx(sum(s >= threshold for s, _, _ in firsts) / len(firsts))
    missed = [not (mate and s >= threshold) for s, mate, _ in firsts]
    assert rates.fnir[0] == pytest.approx(sum(missed) / len(missed))


def store_and_searches(tmp_path: Path, classes: int = 20, each: int = 6) -> tuple[object, QuerySet]:
    labels = classes_of(classes, each)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, 8))
    vectors = {key: centres[int(key.split("-")[0])] + rng.normal(size=8) for key in labels}
    records = records_of(labels)
    return store_of(tmp_path, vectors), QuerySet.of(records, records)


@pytest.mark.parametrize(("kind", "wanted"), [("fmr", 0.01), ("fmr", 0.2), ("fpir", 0.1), ("fpir", 0.5)])
def test_the_threshold_is_that_of_classes_left_out_one_after_another(tmp_path: Path, kind: Kind, wanted: float) -> None:
    store, searches = store_and_searches(tmp_path)
    result = comparisons(store, searches)  # type: ignore[arg-type]
    threshold = threshold_at(kind, wanted, result)
    rate = getattr(decide(threshold, result).rates(), kind).value
    assert 0.6 * wanted < rate <= wanted
    vectors = unit_length(store.read(searches.queries.digests))  # type: ignore[attr-defined]
    similarity = np.where(np.equal.outer(result.group, result.group), -np.inf, vectors @ vectors.T)
    values = similarity if kind == "fmr" else similarity.max(axis=1, keepdims=True)

    def fresh(level: float) -> float:
        errors = 0
        for left_out in range(20):
            others = np.sort(values[result.group != left_out], axis=None)[::-1]
            others = others[np.isfinite(others)]
            errors += (values[result.group == left_out] > others[int(level * len(others))]).sum()
        return float(errors / np.isfinite(values).sum())

    levels = [level for level in np.linspace(0, wanted, 400) if fresh(level) <= wanted]
    assert rate == pytest.approx(max(levels) * 19 / 20, rel=0.05, abs=1 / 120)


@pytest.mark.parametrize(("classes", "sizes"), [(45, [1]), (12, [5]), (40, [1, 2, 15])])
@pytest.mark.parametrize("effect", [0.0, 0.5])
def test_fresh_classes_pass_at_most_at_the_wanted_rate_in_the_mean(
    classes: int, sizes: list[int], effect: float
) -> None:
    rng, rates = np.random.default_rng(classes), []
    for _ in range(300):
        group = np.repeat(np.arange(classes), rng.choice(sizes, classes))
        first = np.sqrt(effect) * rng.normal(size=classes)[group] + np.sqrt(1 - effect) * rng.normal(size=len(group))
        first = np.clip(0.2 * first, -1, 1)
        searches = SimpleNamespace(num_searched=np.ones(len(group)), num_relevant=np.zeros(len(group)))
        compared: Any = SimpleNamespace(first_other=first, group=group, searches=searches)
        rates.append(stats.norm.sf(threshold_at("fpir", 0.25, compared) / 0.2))
    assert 0.15 < np.mean(rates) < 0.25 + 2 * np.std(rates) / np.sqrt(len(rates))


@pytest.mark.parametrize(("sizes", "wanted"), [([20] + [10] * 10, 0.1), ([600] + [60] * 40, 0.01)])
def test_where_one_class_lies_above_all_others_the_rate_that_is_advised_can_be_had(
    sizes: list[int], wanted: float
) -> None:
    group = np.repeat(np.arange(len(sizes)), sizes)
    first = np.random.default_rng(0).uniform(0, 0.5, len(group)) + 0.4 * (group == 0)
    searches = SimpleNamespace(num_searched=np.ones(len(group)), num_relevant=np.zeros(len(group)))
    compared: Any = SimpleNamespace(first_other=first, group=group, searches=searches)
    with pytest.raises(ValueError, match=r"Ask for .* or more, or add more validation classes") as refused:
        threshold_at("fpir", wanted, compared)
    advised = float(str(refused.value).partition("Ask for ")[2].split()[0])
    alone = (first[group == 0] > first[group > 0].max()).sum() / len(group)  # of the first class, left out
    assert alone <= advised < alone + 0.015
    assert threshold_at("fpir", advised, compared) > 0
    with pytest.raises(ValueError, match="cannot be calibrated"):
        threshold_at("fpir", alone - 0.01, compared)


def test_a_rate_too_small_for_the_trials_is_refused_with_what_could_be_had(tmp_path: Path) -> None:
    store, searches = store_and_searches(tmp_path)
    result = comparisons(store, searches)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"fpir = 0\.01 cannot be calibrated on 120 non-mated searches: 10 errors need at least 1,000"
    ):
        threshold_at("fpir", 0.01, result)
    with pytest.raises(ValueError, match=r"fmr = 1e-06 cannot be calibrated on 13,680 non-mated comparisons"):
        threshold_at("fmr", 1e-6, result)
    with pytest.raises(ValueError, match="fmr is a rate between 0 and 1"):
        threshold_at("fmr", 1.0, result)
    for total in (6_630, 953):  # what is advised is not refused
        many: Any = SimpleNamespace(first_other=np.full(total, 0.5), group=np.arange(total), searches=None)
        with pytest.raises(ValueError, match="Ask for") as refused:
            threshold_at("fpir", 1e-4, many)
        advised = float(str(refused.value).partition("Ask for ")[2].split()[0])
        assert total * advised >= 10
    few: Any = SimpleNamespace(first_other=np.full(8, 0.5), group=np.arange(8), searches=None)
    with pytest.raises(
        ValueError, match=r"8 non-mated searches: .* at least 20\. No rate can be: it takes more images"
    ):
        threshold_at("fpir", 0.5, few)


def test_the_interval_is_about_that_of_classes_drawn_anew_with_all_their_queries(tmp_path: Path) -> None:
    store, searches = store_and_searches(tmp_path, classes=40)
    decisions = decide(0.3, comparisons(store, searches))  # type: ignore[arg-type]
    rate = decisions.rates().fnmr
    errors, trials = (
        np.array([by_rate["fnmr"][decisions.compared.group == c].sum() for c in range(40)])
        for by_rate in (decisions.errors, decisions.trials)
    )
    rows = np.random.default_rng(4).integers(0, 40, (2000, 40))
    low, high = np.quantile(errors[rows].sum(1) / trials[rows].sum(1), [0.025, 0.975])
    assert rate.value == errors.sum() / trials.sum()
    assert rate.high - rate.low == pytest.approx(high - low, rel=0.2)


def test_a_class_that_is_not_in_the_gallery_makes_non_mated_searches_only(tmp_path: Path) -> None:
    labels = {"a1": "a", "a2": "a", "b1": "b", "c1": "c"}
    records = records_of(labels)
    store = store_of(tmp_path, random_vectors(list(labels)))
    rates = decide(-1.0, comparisons(store, QuerySet.of(records.take([0, 2]), records.take([1, 3])))).rates()
    assert (rates.fpir.trials, rates.fnir.trials, rates.fnmr.trials) == (2, 1, 1)
    assert rates.fpir.value == 1
    only = comparisons(store, QuerySet.of(records.take([2]), records.take([1, 3])))
    assert math.isnan(decide(0.0, only).rates().fnir.value)
    with pytest.raises(NothingToScoreError, match="no gallery row of another class"):
        comparisons(store, QuerySet.of(records.take([0]), records.take([1])))
    with pytest.raises(ValueError, match="a query without a label may have mates"):
        comparisons(store, QuerySet.of(records_of({"a1": None}), records.take([1, 3])))


def test_the_roc_falls_from_one_end_to_the_other_and_its_points_are_rates(tmp_path: Path) -> None:
    store, searches = store_and_searches(tmp_path)
    result = comparisons(store, searches)  # type: ignore[arg-type]
    roc = result.roc(30)
    thresholds, fmr, fnmr = map(list, zip(*roc, strict=True))
    assert thresholds == sorted(thresholds, reverse=True)
    assert fmr == sorted(fmr)
    assert fnmr == sorted(fnmr, reverse=True)
    assert fmr[-1] == 1
    for threshold, matched, missed in roc[::7]:
        rates = decide(threshold, result).rates()
        assert (rates.fmr.value, rates.fnmr.value) == pytest.approx((matched, missed))


def test_no_error_at_all_is_not_certainty(tmp_path: Path) -> None:
    store, searches = store_and_searches(tmp_path, classes=20)
    rates = decide(1.5, comparisons(store, searches)).rates()  # type: ignore[arg-type]
    assert (rates.fmr.value, rates.fmr.low) == (0, 0)
    none = share_interval(estimate(np.zeros((1, 20)), np.arange(20)))  # of as many trials as classes
    assert rates.fmr.high == pytest.approx(float(none[1][0]))
    assert (rates.fnir.value, rates.fnir.high) == (1, 1)
    assert rates.fnir.low == pytest.approx(1 - float(none[1][0]))


def test_where_validation_queries_are_too_few_for_a_rate_half_of_the_test_classes_choose(tmp_path: Path) -> None:
    labels = classes_of(36, 6)
    store = store_of(tmp_path, random_vectors(list(labels)))
    table = records_of(labels).table
    # Of six classes two images each search, and the others are searched; the other thirty classes search each other.
    sides = ["test" if int(key.split("-")[0]) >= 6 else "asks" if key[-1] in "01" else "answers" for key in labels]
    both = {"query": ("test",), "gallery": ("test",)}
    validating = Records(
        table.append_column("split", pa.array(sides)),
        {**both, "validation_query": ("asks",), "validation_gallery": ("answers",)},
    )
    wanted: list[tuple[Kind, float]] = [("fpir", 0.3), ("fmr", 0.2)]
    decisions, refused, on = choose_thresholds(store, validating, 0, wanted)
    assert ([each.kind for each in decisions], refused) == (["fpir", "fmr"], [])
    assert on.summary.startswith("12 validation queries of 6 classes are too few: 90 queries of 15 test classes")
    assert not {*on.searches.searches.queries.classes} & {*on.test.searches.queries.classes}
    alone = choose_thresholds(store, replace(validating, roles=both), 0, wanted)
    assert [each.test["all"] for each in decisions] == [each.test["all"] for each in alone.decisions]
    # What validation queries can calibrate they do, and more test queries are reported; what nothing can is refused.
    assert len(choose_thresholds(store, validating, 0, [("fmr", 0.2)]).on.test.group) == 180
    assert "fpir = 0.01 cannot be calibrated on 90" in choose_thresholds(store, validating, 0, [("fpir", 0.01)])[1][0]
