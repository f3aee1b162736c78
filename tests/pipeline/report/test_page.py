"""The page of a report: whole, by itself, hostile names as text, images that failed or went missing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from pipeline.commands.health import health_of_run
from pipeline.commands.report import Contents, contents_of, report_page
from pipeline.vectors import choose_vectors
from stages.analysis.health import Mislabelled
from tests.toys.reports import HOSTILE, Ran, Reader, read
from tests.typed import permafrost


def test_the_page_is_whole_and_every_tag_is_closed_in_order(reader: Reader) -> None:
    assert reader.wrong == []
    assert reader.open == []
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_page_loads_nothing(text: str, reader: Reader) -> None:
    for _, attributes in reader.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:image/jpeg;base64,")), value
    assert reader.of("link") == []
    assert not re.search(r"url\(|@import|https?://|fetch\(|XMLHttp", re.sub(r"data:image/jpeg[^\"]*", "", text))


def test_every_section_is_there_and_can_be_reached_from_the_top(reader: Reader) -> None:
    sections = [attributes["id"] for attributes in reader.of("section")]
    assert sections == ["won", "believe", "wrong", "map", "training", "made"]
    assert {f"#{name}" for name in sections} <= {attributes["href"] for attributes in reader.of("a")}
    for heading in (
        "How deep one has to look", "By domain", "What was left out", "smaller galleries", "matching pairs from others",
        "Are the vectors sound?", "Copies across splits", "Doubtful labels", "Stores and heads", "mean of the domains",
    ):  # fmt: skip
        assert heading in reader.text, heading


def test_every_image_and_every_chart_says_what_it_shows(reader: Reader) -> None:
    images = reader.of("img")
    assert len(images) > 60
    assert all(image["alt"].strip() for image in images)
    charts = reader.of("svg")
    assert len(charts) == 4 + 3 + 1 + 2 + 1 + 2  # curves, domains, sizes, pairs, map, training
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    assert any("rank 1, right: " in image["alt"] for image in images)
    assert any("rank 1, wrong: " in image["alt"] for image in images)


def test_hostile_names_are_text_and_nothing_else(text: str, reader: Reader) -> None:
    assert "alert(1)</script>" not in text
    assert len(reader.of("script")) == 2  # the page's own, and the facts of the map
    assert not reader.of("b") or all("onerror" not in attributes for attributes in reader.of("b"))
    for name in HOSTILE[:3] + HOSTILE[4:]:
        assert name in reader.text or any(name in image["alt"] for image in reader.of("img")), name
    assert "49" not in [cell for row in reader.cells for cell in row]  # a label is no template
    (facts,) = re.findall(r'<script type="application/json" id="map-facts">(.*?)</script>', text)
    assert {label for label, _, _ in json.loads(facts)} <= {*HOSTILE, "alone"}


def test_an_image_that_failed_is_named_with_its_reason_and_one_alone_is_counted(
    contents: Contents, reader: Reader
) -> None:
    assert [(failed.key, failed.role) for failed in contents.origins.failures] == [("bad.png", "gallery")]
    assert "not an image" in reader.text
    assert contents.origins.unanswerable == 1
    assert "1 queries have nothing to find" in reader.text


def test_a_missing_image_is_a_placeholder_with_its_reason(ran: Ran, contents: Contents) -> None:
    gone = Path(contents.queries[0].uri)
    content = gone.read_bytes()
    gone.unlink()
    try:
        without = contents_of(ran.run, ran.vectors, 12, health=False)
    finally:
        gone.write_bytes(content)
    shown = read(report_page(without))
    assert shown.wrong == shown.open == []
    assert without.pictures[contents.queries[0].uri].data is None
    missing = [span["aria-label"] for span in shown.of("span") if span.get("class") == "missing"]
    assert any("query" in label and "No such file" in label for label in missing)


def test_the_command_says_where_the_page_is_and_how_large(ran: Ran) -> None:
    done = permafrost("report", "run.toml", "--queries", "4", cwd=ran.folder)
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path == ran.folder / "artifacts/reports/run.html"
    assert "MB" in done.stderr
    assert read(path.read_text(encoding="utf-8")).wrong == []
    done = permafrost("report", "run.toml", "--queries", "0", "--json", "-q", "-o", "page.html", cwd=ran.folder)
    line = json.loads(done.stdout)
    assert line["bytes"] == (ran.folder / "page.html").stat().st_size
    assert line["queries_shown"] == 0
    assert 'id="wrong"' not in (ran.folder / "page.html").read_text(encoding="utf-8")


def test_an_output_that_is_a_folder_is_refused(ran: Ran) -> None:
    done = permafrost("report", "run.toml", "-o", ".", cwd=ran.folder)
    assert done.returncode == 2
    assert "--output names the file to write" in done.stderr


def test_the_health_on_the_page_is_that_of_the_command(ran: Ran, contents: Contents) -> None:
    own = health_of_run(ran.run, ran.vectors)
    chosen = choose_vectors(ran.run, ran.vectors, None)
    assert (own.backbone, own.head) == (chosen.backbone, chosen.head)
    assert contents.health == own
    measured = {(line.backbone, line.head): line for line in own.vectors}
    shown = {(line.backbone, line.head): line for line in contents.soundness.values()}
    assert measured.keys() & shown.keys()
    assert all(shown[key] == measured[key] for key in measured.keys() & shown.keys())


def test_the_raw_feature_of_a_gain_is_named_where_there_are_several(contents: Contents) -> None:
    assert contents.raw is not None
    raw = replace(contents.raw, name="raw · net")
    assert "gain over raw · net, query by query" in read(report_page(Contents(**vars(contents) | {"raw": raw}))).text


def test_a_doubtful_label_names_its_file(contents: Contents) -> None:
    assert contents.health is not None
    uri = contents.queries[0].uri
    doubt = Mislabelled("a key", uri, HOSTILE[0], "cup", 0.9, "train")
    doubted = replace(contents.health, suspects=(doubt,))
    shown = read(report_page(Contents(**vars(contents) | {"health": doubted})))
    assert [attributes["title"] for attributes in shown.of("small") if attributes.get("class") == "file"] == [uri]
    assert "/".join(Path(uri).parts[-2:]) in shown.text
    assert HOSTILE[0] in shown.text
