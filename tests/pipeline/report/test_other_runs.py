"""Reports of other run files: no head, none trained, other ways of searching, scores that are outdated."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from cache.errors import MissingRowsError
from pipeline.commands.report import build_report
from pipeline.config import parse_config
from pipeline.dataset import run_of
from pipeline.views.report.measured import measure
from stages.analysis.first_ranks import first_ranks
from stages.records import Records
from stages.retrieval import query_values
from stages.retrieval.protocols import UnedConfig
from tests.toys.reports import QUIET, RUN, Ran, nearest_by_loops, read


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


def test_domains_that_search_by_themselves_are_ranked_by_themselves(ran: Ran) -> None:
    vectors, records = ran.vectors[0], ran.run.records
    protocol = UnedConfig(gallery="separate")
    ranks = first_ranks(vectors.store, records.split("query"), records.split("gallery"), protocol)
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
