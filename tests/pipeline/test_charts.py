"""Charts: what is drawn where, parsed back from the SVG."""

from __future__ import annotations

from itertools import pairwise
from xml.etree.ElementTree import Element, fromstring

import pytest

from pipeline.views.charts import (
    COLOURS,
    Bar,
    Line,
    Point,
    Scale,
    apart,
    cloud,
    histogram,
    interval_chart,
    line_chart,
    look,
    ticks,
)

HOSTILE = '<script>alert("1")</script> & co'


def parsed(svg: str) -> Element:
    assert "<script" not in svg
    return fromstring(svg)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.31, 0.47, [0.35, 0.4, 0.45]), (1, 10, [2, 4, 6, 8, 10]), (5, 5, [5])],
)
def test_ticks_are_round_numbers_inside(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_names_are_moved_apart_no_further_than_they_must_and_stay_inside() -> None:
    assert apart([10, 50, 90], 13) == [10, 50, 90]
    assert apart([50, 50, 10], 13) == [50, 63, 10]
    assert apart([88, 89, 90], 13, 0, 90) == [64, 77, 90]
    crowded = apart([30.0] * 6, 13, 10, 200)
    assert all(after - before >= 13 for before, after in pairwise(sorted(crowded)))


def test_a_logarithmic_scale_makes_equal_factors_equally_far() -> None:
    x = Scale(1, 100, 0, 200, log=True)
    assert (x(1), x(10), x(100)) == (0, 100, 200)
    assert Scale(0, 4, 10, 50)(1) == 20
    assert Scale(3, 3, 10, 50)(3) == 10  # nothing to spread


def test_a_tick_across_has_three_digits_unless_it_is_a_whole_number() -> None:
    line = Line("a", "c1", [(119 / 12, 0.1), (9520.0, 0.9)])
    chart = parsed(line_chart([line], label="a", across="k", ticks_at=[119 / 12, 95.2, 9520.0], log=True))
    assert {"9.92", "95.2", "9,520"} <= {text.text for text in chart.iter("text")}


def test_a_line_of_one_point_is_a_dot_and_every_name_is_escaped() -> None:
    chart = parsed(line_chart([Line(HOSTILE, "c1", [(1, 0.5)])], label=HOSTILE, across="k"))
    assert len(list(chart.iter("circle"))) == 1
    assert not list(chart.iter("polyline"))
    assert chart.get("aria-label") == HOSTILE
    assert f"{HOSTILE[:12]}…{HOSTILE[-11:]}" in [text.text for text in chart.iter("text")]


def test_a_band_lies_around_its_line() -> None:
    line = Line("a", "c1", [(1, 0.5), (2, 0.6)], [(1, 0.4, 0.6), (2, 0.5, 0.8)])
    chart = parsed(line_chart([line], label="l", across="k"))
    outline = [tuple(map(float, point.split(","))) for point in next(chart.iter("polygon")).get("points", "").split()]
    points = [tuple(map(float, point.split(","))) for point in next(chart.iter("polyline")).get("points", "").split()]
    (x1, high1), (x2, high2), (_, low2), (_, low1) = outline
    assert [x1, x2] == [points[0][0], points[1][0]]
    assert high1 < points[0][1] < low1  # pixels count downwards
    assert high2 < points[1][1] < low2


def test_an_interval_is_a_bar_from_low_to_high_with_its_value_inside_and_in_digits() -> None:
    rows = [Bar("a", 0.5, 0.25, 0.75), Bar(HOSTILE, 1.0, 0.5, 1.0, "raw")]
    chart = parsed(interval_chart(rows, label="l", low=0, high=1))
    first, second = chart.iter("rect")
    widths = [float(bar.get("width", "")) for bar in (first, second)]
    assert widths[0] == pytest.approx(widths[1], abs=0.2)
    dot = float(next(chart.iter("circle")).get("cx", ""))
    assert dot == pytest.approx(float(first.get("x", "")) + widths[0] / 2, abs=0.2)
    assert {"0.500", "1.000"} <= {text.text for text in chart.iter("text")}


def test_a_histogram_is_as_high_as_its_shares_and_marks_a_threshold() -> None:
    groups = [[0.5, 0.5], [0.25, 0.75]]
    chart = parsed(histogram(groups, label="l", across="x", low=0, high=1, mark=(0.5, "threshold")))
    heights = []
    for area in chart.iter("polygon"):
        ys = [float(point.split(",")[1]) for point in area.get("points", "").split()]
        heights.append(max(ys) - min(ys))
    assert heights[1] / heights[0] == pytest.approx(0.75 / 0.5, rel=0.01)
    (mark,) = (line for line in chart.iter("line") if line.get("class") == "mark")
    xs = [float(point.split(",")[0]) for point in next(chart.iter("polygon")).get("points", "").split()]
    assert float(mark.get("x1", "")) == pytest.approx((min(xs) + max(xs)) / 2)


def test_every_point_of_a_cloud_says_what_it_is() -> None:
    chart = parsed(cloud([Point(0, 0, "c1", HOSTILE, 7), Point(1, 1, "rest", "b", 8)], label="l"))
    first, second = chart.iter("circle")
    assert [title.text for title in chart.iter("title")] == [HOSTILE, "b"]
    assert first.get("data-at") == "7"
    assert float(first.get("cx", "")) < float(second.get("cx", ""))
    assert float(first.get("cy", "")) > float(second.get("cy", ""))


def test_the_first_have_a_colour_each_and_the_others_share_one() -> None:
    assert [look(rank) for rank in range(COLOURS + 2)] == [*(f"c{n}" for n in range(1, COLOURS + 1)), "rest", "rest"]
