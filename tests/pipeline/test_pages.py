"""Pages on paper and on a telephone: tables become cards where there is no room, names break sensibly."""

from __future__ import annotations

import re

import pytest

from pipeline.seed_grid import TableRow
from pipeline.views.leaderboard import Interval, Leaderboard, Row
from pipeline.views.pages import breakable, pieces
from pipeline.views.table import table_page

METRICS = ("mmp@5", "map@r", "hit@1", "recall@10", "map")
ROOM = {"a window of 1280 pixels": 74, "a telephone of 390 pixels": 22.4, "a sheet of A4": 45}  # rem beside the margins


def rows(metrics: tuple[str, ...], heads: tuple[str, ...] = ("raw", "arcface_128", "default512")) -> list[TableRow]:
    return [
        TableRow("efficientnet_lite0", head, 0 if head == "raw" else 1500, metric, 0.5, 0.4, 0.6, 0.0, 3, 240,
                 *((None, None, None) if head == "raw" else (-0.1, -0.2, -0.05)))
        for head in heads
        for metric in metrics
    ]  # fmt: skip


def width_of(page: str) -> int:
    """How wide, in rem, the leaderboard of ``page`` has to be to be a table and not cards."""
    (width,) = re.findall(r"@container \(max-width: (\d+)rem\) {\s*\.board", page)
    return int(width)


@pytest.mark.parametrize(("place", "is_table"), [(place, place.startswith("a window")) for place in ROOM])
def test_a_leaderboard_of_five_metrics_is_a_table_on_a_screen_and_cards_on_a_telephone_and_on_paper(
    place: str, is_table: bool
) -> None:
    assert (width_of(table_page("run", rows(METRICS), {})) <= ROOM[place]) == is_table


def test_two_metrics_are_a_table_on_a_small_screen_and_every_further_one_takes_room() -> None:
    widths = [width_of(table_page("run", rows(METRICS[:count]), {})) for count in range(1, 6)]
    assert widths == sorted(set(widths))
    assert widths[1] < 58


def test_longer_names_and_more_digits_take_more_room() -> None:
    def width(name: str, digits: int = 3) -> int:
        row = Row((name,), {"map": Interval(0.5, 0.4, 0.6)})
        return Leaderboard(("head",), ("map",), [row], digits=digits).width

    assert width("a" * 30) > width("a" * 10)
    assert width("_".join(["aaaaaaaaaa"] * 3)) < width("a" * 30)  # it takes three lines
    assert width("a", digits=4) > width("a")


def test_every_number_of_a_card_says_what_it_is() -> None:
    page = table_page("run", rows(METRICS), {})
    named = {"who", "value", "barcell", "rank"}  # the head, the first metric in bold, its interval, the place
    (body,) = re.findall("<tbody>(.*?)</tbody>", page, re.DOTALL)
    cells = re.findall(r"<td([^>]*)>", body)
    assert len(cells) == 3 * 10
    for cell in cells:
        assert "data-name=" in cell or named & set(re.findall(r"[a-z]+", cell))
    assert {*METRICS[1:], "backbone", "rows", "gain over raw"} == set(re.findall('data-name="([^"]+)"', body))


def test_nothing_is_scrolled_on_paper() -> None:
    page = table_page("run", rows(METRICS), {})
    (printed,) = re.findall(r"@media print \{(.*?)\n\}", page, re.DOTALL)
    assert ".wide { overflow: visible; }" in printed


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("red_dress", ["red_", "dress"]),
        ("vit_small.in1k/cls", ["vit_", "small.", "in1k/", "cls"]),
        ("0.35", ["0.35"]),
        ("1e-3", ["1e-3"]),
        ("map@10", ["map@10"]),
        ("black-footed", ["black-", "footed"]),
        ("_hidden_", ["_hidden_"]),
        ("", [""]),
    ],
)
def test_a_name_breaks_behind_its_punctuation_and_neither_inside_a_word_nor_a_number(
    name: str, parts: list[str]
) -> None:
    assert pieces(name) == parts
    assert breakable(name) == "<wbr>".join(parts)


def test_no_label_breaks_inside_a_word_that_fits() -> None:
    page = table_page("run", rows(METRICS), {})
    assert "overflow-wrap: anywhere" not in page
    assert "efficientnet_<wbr>lite0" in page
