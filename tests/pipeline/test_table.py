"""The learning curve's rows and drawing."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

import numpy as np
import pytest
import timm

from pipeline.config import RepeatConfig
from pipeline.seed_grid import TableRow, read_scores
from pipeline.views.table import learning_curve
from stages.records.records import balanced_subset
from tests.pictures import draw_folder, write_table
from tests.toys.training import classes_of, make_records
from tests.typed import RUN, permafrost

TRAIN = make_records(classes_of(5, 10) | classes_of(2, 3, first=7))


@pytest.mark.parametrize("rows", [7, 14, 30])
def test_some_rows_are_drawn_from_every_class_by_turns_and_fewer_are_among_more(rows: int) -> None:
    some = balanced_subset(TRAIN, rows, seed=1)
    assert len(some) == rows
    sizes = Counter(some.labels)
    assert max(sizes.values()) - min(count for name, count in sizes.items() if name not in ("class 7", "class 8")) <= 1
    assert set(some.keys) < set(balanced_subset(TRAIN, rows + 5, seed=1).keys)
    assert set(some.keys) != set(balanced_subset(TRAIN, rows, seed=2).keys)


def test_a_class_comes_in_with_as_many_rows_as_a_head_wants_of_it_and_smaller_ones_do_not() -> None:
    singles = make_records(classes_of(4, 1) | classes_of(6, 5, first=4))
    for count, wanted in [(2, [2]), (5, [2, 2]), (12, [2] * 6), (14, [3, 3, 2, 2, 2, 2]), (34, [5] * 6)]:
        some = balanced_subset(singles, count, seed=1, least=2)
        assert sorted(Counter(some.labels).values(), reverse=True) == wanted
        assert {*some.keys} <= {*balanced_subset(singles, count + 3, seed=1, least=2).keys}


def test_all_rows_are_the_records_themselves() -> None:
    assert balanced_subset(TRAIN, None, 0) is TRAIN
    assert balanced_subset(TRAIN, 1000, 0) is TRAIN


def line(head: str, rows: int, value: float) -> TableRow:
    return TableRow("net", head, rows, "map", value, value - 0.1, value + 0.1, 0.0, 1, 9, None, None, None)


def test_a_cell_holds_the_classes_of_its_queries() -> None:
    cell = {"0 ": np.array(["a", "b"]), "0 map": np.array([0.5, 1.0]), "0 class": np.array(["cup", ""])}
    (scores,) = read_scores(cell)
    assert (scores.query_keys, scores.query_classes, list(scores.per_query)) == (("a", "b"), ("cup", None), ["map"])


def parsed(drawing: str | None) -> Element:
    assert drawing is not None
    return fromstring(drawing)


def test_a_curve_has_a_point_for_each_number_of_rows_higher_for_a_higher_score() -> None:
    lines = [line("raw", 0, 0.3), line("a", 100, 0.4), line("a", 1000, 0.6), line("a", 10000, 0.5)]
    drawing = parsed(learning_curve(lines, "map"))
    curve, raw = (element.get("points", "").split() for element in drawing.iter("polyline"))
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in curve)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)  # factors of ten are equally far
    assert y1 < y2 < y0  # pixels count downwards
    assert {"100", "1,000", "10,000"} <= {text.text for text in drawing.iter("text")}
    assert float(raw[0].split(",")[1]) == float(raw[1].split(",")[1]) > y0


def test_names_of_curves_that_end_together_do_not_overlap() -> None:
    drawing = parsed(learning_curve([line(head, rows, 0.5) for head in "abc" for rows in (10, 100)], "map"))
    labels = sorted(float(text.get("y", "")) for text in drawing.iter("text") if text.text in {"a", "b", "c"})
    assert len(labels) == 3
    assert all(after - before >= 12 for before, after in pairwise(labels))


def test_without_other_numbers_of_rows_there_is_no_curve() -> None:
    assert learning_curve([line("raw", 0, 0.3), line("a", 100, 0.4)], "map") is None


@pytest.mark.parametrize("settings", [{"seeds": ()}, {"seeds": (1, 1)}, {"rows": (300, 100)}, {"rows": (0,)}])
def test_settings_that_cannot_be_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"seeds is|rows are"):
        RepeatConfig(**settings)  # type: ignore[arg-type]


def test_the_networks_that_wait_for_a_download_are_known_to_timm_by_the_names_in_the_run_file() -> None:
    text = (Path(__file__).parent.parent.parent / "runs/small_data.toml").read_text()
    waiting = re.findall('"((?:resnet|vit_base)[a-z0-9_]+)"', text.partition("artifacts =")[0])
    assert len(waiting) == 5
    assert set(waiting) <= set(timm.list_models())


def picture_of(folder: Path) -> Path:
    """The picture that the page of the table shows."""
    home = folder / "artifacts/tables/run"
    (name,) = re.findall('<img[^>]* src="([^"]+)"', (home / "table.html").read_text(encoding="utf-8"))
    return home / str(name)


def table(folder: Path, run: str) -> None:
    (folder / "run.toml").write_text(run + "[repeat]\nseeds = [0]\n")
    done = permafrost("table", "run.toml", "--quiet", "--workers", "1", cwd=folder)
    assert done.returncode == 0, done.stderr


def test_a_point_of_the_curve_is_called_by_the_images_that_are_learned_from_and_the_page_names_those_left_out(
    tmp_path: Path,
) -> None:
    sizes = {"a": 1, "b": 1, "c": 3, "d": 3, "e": 3, "x": 3, "y": 3}
    draw_folder(tmp_path / "images", sizes)
    images = [
        {"path": f"images/{name}/{number}.png", "label": name, "split": "test" if name in "xy" else "train"}
        for name, count in sizes.items()
        for number in range(count)
    ]
    write_table(tmp_path / "labels.csv", images)
    table_run = RUN.replace('"folder"', '"table"').replace('"images"\nqueries_per_class = 2', '"labels.csv"')
    table_run += "[repeat]\nseeds = [0]\nrows = [3, 5, 8, 10]\n"
    table_run = table_run.replace(
        '"labels.csv"', '"labels.csv"\nlabel = "label"\ntrain = "train"\nquery = "test"\ngallery = "test"'
    )
    (tmp_path / "run.toml").write_text(table_run)
    assert permafrost("extract", "run.toml", "--quiet", cwd=tmp_path).returncode == 0
    done = permafrost("table", "run.toml", "--json", "--workers", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {json.loads(text)["rows"] for text in done.stdout.splitlines()}
    assert rows == {0, 4, 8, 9}  # three classes of three are learned from: of 5 rows two classes of two
    page = (tmp_path / "artifacts/tables/run/table.html").read_text(encoding="utf-8")
    for reason in (
        "two classes of 2 images or more: name 4 rows or more",
        "9 images can be trained on, and the curve ends",
    ):
        assert reason in done.stderr
        assert reason in page

    def cells() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "artifacts/tables/run/cells").iterdir()}

    before = cells()
    write_table(tmp_path / "labels.csv", images[::-1])
    assert permafrost("table", "run.toml", "--quiet", "--workers", "1", cwd=tmp_path).returncode == 0
    assert cells() == before
    (tmp_path / "images/x/0.png").rename(tmp_path / "images/x/9.png")  # another key: queries are paired by it
    renamed = [row | {"path": row["path"].replace("x/0.png", "x/9.png")} for row in images]
    write_table(tmp_path / "labels.csv", renamed)
    assert permafrost("table", "run.toml", "--quiet", "--workers", "1", cwd=tmp_path).returncode == 0
    assert len({*cells()} - {*before}) == len(before)


@pytest.mark.slow
def test_the_picture_is_drawn_anew_when_a_head_has_changed_and_is_there_without_heads(tmp_path: Path) -> None:
    draw_folder(tmp_path / "images", {f"class {number}": 4 for number in range(8)})
    (tmp_path / "run.toml").write_text(RUN)
    assert permafrost("extract", "run.toml", "--quiet", cwd=tmp_path).returncode == 0
    table(tmp_path, RUN)
    first = picture_of(tmp_path).read_bytes()
    table(tmp_path, RUN.replace("dim = 8", "dim = 3"))
    changed = picture_of(tmp_path)
    second = changed.read_bytes()
    assert second != first
    assert list(changed.parent.glob("*.png")) == [changed]
    table(tmp_path, re.sub(r"\[\[heads\]\].*?(?=\[retrieval\])", "", RUN, flags=re.DOTALL))
    assert picture_of(tmp_path).read_bytes() not in (first, second)
