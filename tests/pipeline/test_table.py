"""The learning curve's rows and drawing."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

import pytest
import timm

from pipeline.commands.table import Line
from pipeline.config import RepeatConfig
from pipeline.seed_grid import some_of
from pipeline.views.table_page import draw
from tests.toys.training import classes_of, make_records

TRAIN = make_records(classes_of(5, 10) | classes_of(2, 3, first=7))


@pytest.mark.parametrize("rows", [7, 14, 30])
def test_some_rows_are_drawn_from_every_class_by_turns_and_fewer_are_among_more(rows: int) -> None:
    some = some_of(TRAIN, rows, seed=1)
    assert len(some) == rows
    sizes = Counter(some.labels)
    assert max(sizes.values()) - min(count for name, count in sizes.items() if name not in ("class 7", "class 8")) <= 1
    assert set(some.keys) < set(some_of(TRAIN, rows + 5, seed=1).keys)
    assert set(some.keys) != set(some_of(TRAIN, rows, seed=2).keys)


def test_all_rows_are_the_records_themselves() -> None:
    assert some_of(TRAIN, None, 0) is TRAIN
    assert some_of(TRAIN, 1000, 0) is TRAIN


def line(head: str, rows: int, value: float) -> Line:
    return Line("net", head, rows, "map", value, value - 0.1, value + 0.1, 0.0, 1, 9, None, None, None)


def parsed(drawing: str | None) -> Element:
    assert drawing is not None
    return fromstring(drawing)


def test_a_curve_has_a_point_for_each_number_of_rows_higher_for_a_higher_score() -> None:
    lines = [line("raw", 0, 0.3), line("a", 100, 0.4), line("a", 1000, 0.6), line("a", 10000, 0.5)]
    drawing = parsed(draw(lines, "map"))
    curve, raw = (element.get("points", "").split() for element in drawing.iter("polyline"))
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in curve)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)  # factors of ten are equally far
    assert y1 < y2 < y0  # pixels count downwards
    assert {"100", "1,000", "10,000"} <= {text.text for text in drawing.iter("text")}
    assert float(raw[0].split(",")[1]) == float(raw[1].split(",")[1]) > y0


def test_names_of_curves_that_end_together_do_not_overlap() -> None:
    drawing = parsed(draw([line(head, rows, 0.5) for head in "abc" for rows in (10, 100)], "map"))
    labels = sorted(float(text.get("y", "")) for text in drawing.iter("text") if text.text in {"a", "b", "c"})
    assert len(labels) == 3
    assert all(after - before >= 12 for before, after in pairwise(labels))


def test_without_other_numbers_of_rows_there_is_no_curve() -> None:
    assert draw([line("raw", 0, 0.3), line("a", 100, 0.4)], "map") is None


@pytest.mark.parametrize(
    "settings", [{"seeds": ()}, {"seeds": (1, 1)}, {"rows": (300, 100)}, {"rows": (0,)}, {"queries": 0}]
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"seeds are|rows are|queries is"):
        RepeatConfig(**settings)  # type: ignore[arg-type]


def test_the_networks_that_wait_for_a_download_are_known_to_timm_by_the_names_in_the_run_file() -> None:
    text = (Path(__file__).parent.parent.parent / "runs/small_data.toml").read_text()
    waiting = re.findall('"((?:resnet|vit_base)[a-z0-9_]+)"', text.partition("artifacts =")[0])
    assert len(waiting) == 5
    assert set(waiting) <= set(timm.list_models())
