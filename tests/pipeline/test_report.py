"""The report of a small run, with hostile names, an image that failed and one that went missing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import fromstring

import numpy as np
import pytest

from cache.errors import MissingRowsError
from pipeline.commands.health import health_of_run
from pipeline.commands.report import build_report
from pipeline.config import parse_config
from pipeline.dataset import Run, run_of
from pipeline.extraction import Hardware, extract_features
from pipeline.progress import Display
from pipeline.scores import score_run
from pipeline.vectors import Vectors, choose_vectors, find_vectors
from pipeline.views.report.contents import Contents, contents_of, report_page
from pipeline.views.report.curves import TITLES, k_curves, looks, pair_similarities
from pipeline.views.report.embedding_map import map_view
from pipeline.views.report.learning import learning_curves
from pipeline.views.report.measured import Measured, measure
from pipeline.views.report.queries import NEAREST, shown_queries
from stages.analysis.first_ranks import DEPTH, first_ranks
from stages.analysis.health import Mislabelled
from stages.ranking import find_metric, unit_length
from stages.ranking.metrics import at_every_k
from stages.records import Records
from stages.retrieval import query_values
from stages.retrieval.protocols import UnedConfig
from tests.pictures import draw, write_table
from tests.typed import permafrost

HOSTILE = [
    "<script>alert(1)</script>",
    "a \"quoted\" & 'odd' </style> name",
    "plain",
    "日本語 ]]> -->",
    "{{ 7 * 7 }}",
    "x",
]
QUIET = Display(quiet=True)
RUN = """
artifacts = "{folder}/artifacts"
[dataset]
kind = "table"
path = "{folder}/labels.csv"
label = "label"
domain = "domain"
train = "train"
query = "query"
gallery = "gallery"
[[backbones]]
kind = "timm"
name = "test_resnet"
weights = "random"
preprocess = {{ size = 64 }}
[[heads]]
name = "cosface8"
dim = 8
loss = {{ kind = "cosface" }}
training = {{ epochs = 3 }}
[[heads]]
name = "lda8"
kind = "lda"
dim = 8
[retrieval]
metrics = ["mmp@5", "map@r", "hit@1"]
gallery_sizes = [0.2, 1.0]
"""


class Ran(NamedTuple):
    """A run whose stages are done."""

    folder: Path
    run: Run
    vectors: Sequence[Vectors]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("report")
    rows = []
    for group in range(2 * len(HOSTILE)):
        for number in range(8):
            split = "query" if number < 2 else "gallery" if number < 5 else "train"
            name = f"{group}_{number}.png"
            draw(folder / name, 40 * group + (0, 1, 0, 2, 3, 1, 2, 3)[number])  # some queries find their own picture
            label, domain = HOSTILE[group // 2], "one <b>" if group % 2 else "two & more"
            rows.append({"path": name, "label": label, "domain": domain, "split": split})
    (folder / "bad.png").write_bytes(b"no image")
    rows.append({"path": "bad.png", "label": "x", "domain": "one <b>", "split": "gallery"})
    rows.append({"path": "0_0.png", "label": "alone", "domain": "one <b>", "split": "query"})
    rows[-1]["path"] = str(draw(folder / "alone.png", 999).name)
    write_table(folder / "labels.csv", rows)
    (folder / "run.toml").write_text(RUN.format(folder=folder))
    config = parse_config((folder / "run.toml").read_text())
    run = run_of(config, QUIET, folder / "run.toml")
    extract_features(run, Hardware())
    vectors = find_vectors(run, train=True)
    score_run(run, vectors)
    return Ran(folder, run, vectors)


@pytest.fixture(scope="module")
def contents(ran: Ran) -> Contents:
    return contents_of(ran.run, ran.vectors, 12, health=True)


@pytest.fixture(scope="module")
def measured(ran: Ran) -> list[Measured]:
    return measure(ran.run, ran.vectors)


class Reader(HTMLParser):
    """Reads a page, and notes everything that a browser would: unclosed tags, links, images, scripts, text."""

    _VOID = frozenset({"meta", "img", "br", "hr", "link", "input", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.cells: list[list[str]] = []
        self.text = ""
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self._VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag == "td":
            self.cells[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data
            if "td" in self.open:
                self.cells[-1][-1] += data

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader


@pytest.fixture(scope="module")
def text(contents: Contents) -> str:
    return report_page(contents)


@pytest.fixture(scope="module")
def reader(text: str) -> Reader:
    return read(text)


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


def test_the_numbers_are_those_of_score(ran: Ran, reader: Reader) -> None:
    lines = (ran.folder / "artifacts/scores/run.jsonl").read_text().splitlines()
    scores = {(line["head"], line["metric"]): line for line in map(json.loads, lines) if line["domain"] == "mean"}
    board = [cells for cells in reader.cells if len(cells) == 8 and cells[0].strip() in {"1", "2", "3"}]
    shown = {cells[1].strip(" ✱\n"): cells for cells in board}
    assert set(shown) == {"raw", "cosface8", "lda8"}
    for (head, metric), line in scores.items():
        cell = shown[head][{"mmp@5": 3, "map@r": 6, "hit@1": 7}[metric]]
        half = (line["high"] - line["low"]) / 2
        assert cell.split() == [f"{line['value']:.3f}", f"±{half:.3f}"], (head, metric)
    values = [float(cells[3].split()[0]) for cells in board]
    assert values == sorted(values, reverse=True)


def test_the_gain_over_raw_is_the_mean_difference_of_the_domains(
    ran: Ran, contents: Contents, measured: list[Measured]
) -> None:
    raw = next(side for side in measured if side.raw)
    domains = dict(zip(ran.run.records.keys, ran.run.records.domains, strict=True))
    for row in contents.board.rows:
        head = next(side for side in measured if (side.name,) == row.names)
        if row.raw:
            assert not row.gains
            continue
        by_domain: dict[str | None, list[float]] = {}
        of_raw = dict(zip(raw.by_query["mmp@5"].query_keys, raw.by_query["mmp@5"].per_query["mmp@5"], strict=True))
        for key, value in zip(
            head.by_query["mmp@5"].query_keys, head.by_query["mmp@5"].per_query["mmp@5"], strict=True
        ):
            by_domain.setdefault(domains[key], []).append(value - of_raw[key])
        assert row.gains["mmp@5"].value == pytest.approx(np.mean([np.mean(changes) for changes in by_domain.values()]))


def nearest_by_loops(vectors: Vectors, records: Records, key: str) -> list[tuple[str, float]]:
    """Keys and similarities of the gallery, nearest first, one product at a time."""
    gallery = records.split("gallery")
    usable = gallery.take(np.flatnonzero(vectors.store.usable(gallery.digests)))
    query = records.take([records.keys.index(key)])
    vector = unit_length(vectors.store.read(query.digests))[0].astype(np.float64)
    rows = unit_length(vectors.store.read(usable.digests)).astype(np.float64)
    scored = [
        (name, float(np.float32(vector @ row))) for name, row in zip(usable.keys, rows, strict=True) if name != key
    ]
    return sorted(scored, key=lambda pair: (-pair[1], usable.keys.index(pair[0])))


def test_marks_are_those_of_a_loop_over_the_gallery(ran: Ran, contents: Contents) -> None:
    labels = dict(zip(ran.run.records.keys, ran.run.records.labels, strict=True))
    domains = dict(zip(ran.run.records.keys, ran.run.records.domains, strict=True))
    by_name = {vectors.head: vectors for vectors in ran.vectors}
    assert len(contents.queries) == 12
    for query in contents.queries:
        assert len(query.results) == 2
        for name, result in query.results.items():
            expected = nearest_by_loops(by_name[name], ran.run.records, query.key)[:NEAREST]
            assert [image.key for image in result.images] == [key for key, _ in expected]
            assert [image.similarity for image in result.images] == pytest.approx(
                [one for _, one in expected], abs=1e-6
            )
            for image in result.images:
                right = labels[image.key] == labels[query.key] and domains[image.key] == domains[query.key]
                assert image.right == right


def test_the_worst_queries_come_first_and_domains_take_turns(ran: Ran, measured: list[Measured]) -> None:
    best, raw = measured[0], next(side for side in measured if side.raw)
    other = raw if best is not raw else None
    queries = shown_queries(best, best, other, "mmp@5", 10)
    scored = best.by_query["mmp@5"]
    value = dict(zip(scored.query_keys, scored.per_query["mmp@5"], strict=True))
    worst = [query for query in queries if query.list == "worst"]
    for domain in {query.domain for query in worst}:
        values = [value[query.key] for query in worst if query.domain == domain]
        assert values == sorted(values)
    assert len({query.domain for query in worst[:2]}) == 2
    assert len({query.key for query in queries}) == len(queries) == 10
    of_raw = dict(zip(raw.by_query["mmp@5"].query_keys, raw.by_query["mmp@5"].per_query["mmp@5"], strict=True))
    for query in queries:
        assert query.list != "lost" or value[query.key] < of_raw[query.key]
        assert query.list != "gained" or value[query.key] > of_raw[query.key]


def test_curves_are_the_metrics_at_every_k(measured: list[Measured]) -> None:
    for side in measured:
        assert side.ranks is not None
        values = at_every_k(side.ranks.relevant, side.ranks.num_relevant)
        assert set(TITLES) == set(values)
        for stem in TITLES:
            for k in (1, 2, 3, 7, 20, DEPTH):
                expected = find_metric(f"{stem}@{k}").function(side.ranks.relevant, side.ranks.num_relevant)
                assert values[stem][:, k - 1] == pytest.approx(expected), (stem, k)


def test_the_curve_in_numbers_starts_at_the_score_of_the_leaderboard(measured: list[Measured]) -> None:
    curves = k_curves(measured, "mean", looks(measured))
    assert len(curves.charts) == len(TITLES)
    assert [name for name, _ in curves.hits] == [side.name for side in measured]
    for name, values in curves.hits:
        (row,) = [side.row("hit@1", "mean") for side in measured if side.name == name]
        assert row is not None
        assert values[0] == pytest.approx(row.value)


def test_scores_that_are_still_true_are_read_and_others_are_computed_anew(ran: Ran) -> None:
    path = ran.folder / "artifacts/scores/run.parquet"
    before = path.stat().st_mtime_ns
    measure(ran.run, ran.vectors)
    assert path.stat().st_mtime_ns == before
    labels = ran.run.records.table["label"].to_pylist()
    changed = [label if split != "query" else "x" for label, split in zip(labels, ran.run.records.splits, strict=True)]
    place = ran.run.records.table.column_names.index("label")
    table = ran.run.records.table.set_column(place, "label", [changed])
    changed_rows = measure(
        replace(ran.run, file=Path("other.toml"), records=Records(table, ran.run.records.roles)), ran.vectors
    )
    path.with_name("other.parquet").replace(path)
    path.with_name("other.jsonl").replace(path.with_suffix(".jsonl"))
    again = measure(ran.run, ran.vectors)
    assert [side.rows for side in again] != [side.rows for side in changed_rows]
    assert path.stat().st_mtime_ns > before


def test_scores_of_another_version_of_the_code_are_computed_anew(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ran.folder / "artifacts/scores/run.parquet"
    measure(ran.run, ran.vectors)
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(query_values, "VERSION", 10**6)
    measure(ran.run, ran.vectors)
    assert path.stat().st_mtime_ns > before


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


def test_the_roc_area_is_how_often_a_matching_pair_is_the_more_similar_one(measured: list[Measured]) -> None:
    for side in measured:
        assert side.ranks is not None
        pairs = pair_similarities(side, seed=0)
        assert pairs is not None
        (part,) = side.ranks.searches
        similarity = (
            unit_length(side.vectors.store.read(part.queries.digests))
            @ unit_length(side.vectors.store.read(part.gallery.digests)).T
        )
        relevant, others = part.masks(np.arange(len(part.queries)))
        assert (pairs.matching.sum(), pairs.others.sum()) == (relevant.sum(), others.sum())
        matching, other = similarity[relevant], similarity[others]
        wins = (matching[:, None] > other).mean() + (matching[:, None] == other).mean() / 2
        assert pairs.roc_auc == pytest.approx(wins, abs=1e-3)  # bins are 1/32768 wide


def test_the_map_is_the_same_every_time_and_fills_its_frame(measured: list[Measured]) -> None:
    first, second = (map_view(measured[0], seed=0) for _ in range(2))
    assert first is not None
    assert first == second
    assert first.by == "domain"
    assert sum(count for _, _, count in first.groups) == len(first.images)
    for across in ([image.x for image in first.images], [image.y for image in first.images]):
        assert (min(across), max(across)) == (0, 1)
    assert set(first.pictured) <= set(range(len(first.images)))


def test_training_curves_show_the_epochs_of_the_log(ran: Ran, measured: list[Measured]) -> None:
    by_name = {curves.name: curves for curves in learning_curves(measured)}
    assert set(by_name) == {"cosface8", "lda8"}
    assert by_name["lda8"].loss is None
    trained = next(vectors for vectors in ran.vectors if vectors.head == "cosface8").trained
    assert trained is not None
    drawn = fromstring(by_name["cosface8"].loss or "")
    points = [len(line.get("points", "").split()) for line in drawn.iter("polyline")]
    assert sum(points) + len(list(drawn.iter("circle"))) == len(trained.log)
    assert f"{trained.log[0].loss:.3f}" in str(by_name["cosface8"].loss)


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


def test_a_head_that_is_not_trained_is_named_with_the_command_that_trains_it(ran: Ran) -> None:
    more = RUN.format(folder=ran.folder) + '[[heads]]\nname = "new"\ndim = 4\nloss = { kind = "cosface" }\n'
    config = parse_config(more.replace("[retrieval]", "[retrieval]", 1))
    with pytest.raises(MissingRowsError, match=r"new is not trained on test_resnet.*permafrost train-heads"):
        build_report(run_of(config, QUIET), 4, health=False)


def test_a_run_without_heads_has_a_report_too(ran: Ran, tmp_path: Path) -> None:
    text = re.sub(r"\[\[heads\]\].*?(?=\[retrieval\])", "", RUN.format(folder=ran.folder), flags=re.DOTALL)
    config = parse_config(text.replace('"map@r", "hit@1"', '"map"'))
    contents, page_text = build_report(run_of(config, QUIET, Path("bare.toml")), 6, health=False)
    shown = read(page_text)
    assert shown.wrong == shown.open == []
    assert contents.raw is None
    assert {query.list for query in contents.queries} <= {"worst", "sample"}
    assert "No head is above the raw feature" in shown.text


def test_an_output_that_is_a_folder_is_refused(ran: Ran) -> None:
    done = permafrost("report", "run.toml", "-o", ".", cwd=ran.folder)
    assert done.returncode == 2
    assert "--output names the file to write" in done.stderr


def test_domains_that_search_by_themselves_are_ranked_by_themselves(ran: Ran) -> None:
    vectors, records = ran.vectors[0], ran.run.records
    rules = UnedConfig(gallery="separate").rules()
    ranks = first_ranks(vectors.store, records.split("query"), records.split("gallery"), rules)
    assert ranks is not None
    assert len(ranks.searches) == 2
    domains = dict(zip(records.keys, records.domains, strict=True))
    labels = dict(zip(records.keys, records.labels, strict=True))
    keys = ranks.gallery.keys
    for at, key in enumerate(ranks.queries.keys):
        names = [keys[row] for row in ranks.rows[at] if row >= 0]
        expected = [name for name, _ in nearest_by_loops(vectors, records, key) if domains[name] == domains[key]]
        assert names == expected
        assert ranks.relevant[at, : len(names)].tolist() == [labels[name] == labels[key] for name in names]
        assert ranks.num_relevant[at] == sum(labels[name] == labels[key] for name in expected)
    text = RUN.format(folder=ran.folder) + 'protocol = { kind = "uned", gallery = "separate" }\n'
    contents, page_text = build_report(
        run_of(parse_config(text.replace('"map@r"', '"map"')), QUIET, Path("apart.toml")), 6, health=False
    )
    assert read(page_text).wrong == []
    assert contents.sizes is None
    assert all(
        domains[image.key] == query.domain for query in contents.queries for image in query.results["raw"].images
    )


def test_other_ways_of_searching_stand_in_the_leaderboard(ran: Ran) -> None:
    text = RUN.format(folder=ran.folder) + 'rerank = [{ kind = "query_expansion" }]\n'
    contents, page_text = build_report(run_of(parse_config(text), QUIET, Path("expanded.toml")), 6, health=False)
    heads = {name for row in contents.board.rows for name in row.names}
    assert {"raw", "lda8", "cosface8"} < heads
    assert len(heads) == 6
    assert read(page_text).wrong == []
    colours = {row.names[0]: row.look for row in contents.board.rows}
    for _, chart in contents.curves.charts:  # a head has one colour on the whole page
        drawn = dict(re.findall(r'class="name (?P<look>\S+)"[^>]*>(\w+)<', chart))
        assert {name: look for look, name in drawn.items()} == {n: colours[n] for n in ("raw", "lda8", "cosface8")}


def test_where_raw_wins_the_best_head_is_still_shown_beside_it(ran: Ran) -> None:
    text = re.sub(
        r'\[\[heads\]\]\nname = "lda8".*?(?=\[retrieval\])', "", RUN.format(folder=ran.folder), flags=re.DOTALL
    )
    contents, page_text = build_report(run_of(parse_config(text), QUIET, Path("lost.toml")), 12, health=False)
    assert contents.best is contents.raw
    assert contents.head is not None
    assert contents.head.name == "cosface8"
    assert {tuple(query.results) for query in contents.queries} == {("raw", "cosface8")}
    assert {query.list for query in contents.queries} == {"worst", "lost", "gained", "sample"}
    by_raw = {query.key: query.results["raw"].value for query in contents.queries}
    raw, head = (side.values("mmp@5", list(by_raw)) for side in (contents.best, contents.head))
    assert list(by_raw.values()) == pytest.approx(raw)
    change = dict(zip(by_raw, head - raw, strict=True))
    assert all(change[query.key] < 0 for query in contents.queries if query.list == "lost")
    assert all(change[query.key] > 0 for query in contents.queries if query.list == "gained")
    shown = read(page_text)
    assert "No head is above the raw feature" in shown.text
    assert "its gain over raw, query by query" in shown.text


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
    assert "gain over raw · net, query by query" in read(report_page(replace(contents, raw=raw))).text


def test_a_doubtful_label_names_its_file(contents: Contents) -> None:
    assert contents.health is not None
    uri = contents.queries[0].uri
    doubt = Mislabelled("a key", uri, HOSTILE[0], "cup", 0.9, "train")
    shown = read(report_page(replace(contents, health=replace(contents.health, suspects=(doubt,)))))
    assert [attributes["title"] for attributes in shown.of("small") if attributes.get("class") == "file"] == [uri]
    assert "/".join(Path(uri).parts[-2:]) in shown.text
    assert HOSTILE[0] in shown.text
