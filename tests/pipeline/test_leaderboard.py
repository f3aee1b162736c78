"""The leaderboard: what is best, what is behind, and what a table prints of it."""

from __future__ import annotations

import pytest

from pipeline.scores import ScoreRow
from pipeline.views.leaderboard import BEHIND, GAIN, Bounded, Interval, Leaderboard, Row, score_table, text


def row(backbone: str, head: str, value: float, metric: str = "map", domain: str = "all", **ends: float) -> ScoreRow:
    return ScoreRow(backbone, head, domain, metric, value, value - 0.1, value + 0.1, 1200, 34, "e", **ends)


def test_the_best_of_each_backbone_and_domain_has_a_star() -> None:
    table = score_table(
        [row("net", "raw", 0.3), row("net", "small", 0.5), row("pca", "raw", 0.2), row("pca", "small", 0.1)]
    ).splitlines()
    assert table[0].split() == ["backbone", "head", "map", "queries", "gallery"]
    assert [line.split()[:4] for line in table[1:5]] == [
        ["net", "raw", "0.300", "±0.100"],
        ["net", "small", "0.500", "±0.100*"],
        ["pca", "raw", "0.200", "±0.100*"],
        ["pca", "small", "0.100", "±0.100"],
    ]
    assert table[1].split()[4:] == ["1,200", "34"]
    assert "*" not in score_table([row("net", "raw", 0.3), row("pca", "raw", 0.2)]).splitlines()[1]  # of one


def test_floor_and_ceiling_stand_below_once_and_are_no_columns() -> None:
    rows = [row("net", head, 0.3, floor=0.1, ceiling=0.9) for head in ("raw", "small")]
    rows += [
        row("net", "raw", value, f"legacy_map@10{end}") for end, value in (("", 0.2), (".ceiling", 0.6), (".floor", 0))
    ]
    table = score_table(rows)
    assert table.count("map: a perfect ranking has 0.900, one by chance 0.100") == 1
    assert "legacy_map@10: a perfect ranking has 0.600, one by chance 0.000" in table
    assert "ceiling" not in table


def test_a_metric_that_a_row_lacks_is_a_dash() -> None:
    table = score_table([row("net", "raw", 0.3), row("net", "small", 0.4), row("net", "small", 0.5, "hit@1")])
    assert table.splitlines()[1].split() == ["net", "raw", "0.300", "±0.100", "-", "1,200", "34"]


def board(rows: list[Row]) -> Leaderboard:
    return Leaderboard(("head",), ("map",), rows, ranked=True)


def test_a_row_is_tied_where_its_difference_to_the_best_can_be_nothing() -> None:
    scores: dict[str, Bounded | None] = {"map": Interval(0.5, 0.4, 0.6)}
    best = Row(("a",), scores)
    tied = Row(("b",), scores, behind=Interval(0.01, -0.001, 0.02))
    worse = Row(("c",), scores, behind=Interval(0.1, 0.05, 0.2))
    assert [one.tied for one in (best, tied, worse)] == [False, True, False]
    shown = board([best, tied, worse])
    assert shown.change == BEHIND
    lines = text(shown, ["legend"], most=[0, 1]).splitlines()
    assert lines[1].split()[-2:] == ["the", "best"]
    assert lines[2].endswith("0.010 [-0.001, 0.020] ~")
    assert lines[3:] == ["legend"]


def test_gains_are_shown_where_there_are_any() -> None:
    raw = Row(("net", "raw"), {"map": Interval(0.5, 0.4, 0.6)}, ("net",), look="raw")
    head = Row(("net", "a"), {"map": Interval(0.7, 0.6, 0.8)}, ("net",), gains={"map": Interval(0.2, 0.1, 0.3)})
    shown = Leaderboard(("backbone", "head"), ("map",), [raw, head])
    assert shown.change == GAIN
    assert [shown.reference(one) for one in shown.rows] == [0.5, 0.5]
    assert [one.raw for one in shown.rows] == [True, False]
    assert text(shown, []).splitlines()[2].endswith("0.200 [0.100, 0.300]")


def test_the_axis_holds_every_interval_and_zero_has_no_minus() -> None:
    shown = board([Row(("a",), {"map": Interval(0.5, 0.2, 0.6)}), Row(("b",), {"map": None})])
    assert 0 < shown.across(0.2) < shown.across(0.5) < shown.across(0.6) < 100
    assert shown.axis == pytest.approx((0.188, 0.612))
    assert shown.number(-0.0001) == "0.000"
