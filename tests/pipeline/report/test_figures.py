"""The numbers of a report, each computed another way."""

from __future__ import annotations

import json
from xml.etree.ElementTree import fromstring

import numpy as np
import pytest

from pipeline.commands.report import Contents
from pipeline.views.report.curves import TITLES, k_curves, learning_curves, looks, pair_similarities
from pipeline.views.report.images import NEAREST, map_view, shown_queries
from pipeline.views.report.measured import Measured
from stages.analysis.first_ranks import DEPTH
from stages.ranking import find_metric, unit_length
from stages.ranking.metrics import at_every_k
from tests.toys.reports import Ran, Reader, nearest_by_loops


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


def test_curves_end_with_a_gallery_that_is_smaller_than_their_last_k(measured: list[Measured]) -> None:
    curves = k_curves(measured, "mean", looks(measured))
    (searches,) = {tuple(side.ranks.searches) for side in measured[:1] if side.ranks is not None}
    masks = [part.masks(np.arange(len(part.queries))) for part in searches]
    deepest = max(int((relevant | others).sum(axis=1).max()) for relevant, others in masks)
    assert deepest < DEPTH
    assert all(f"@k from k = 1 to {deepest}: " in str(chart) for _, chart in curves.charts)
    for side, (_, values) in zip(measured, curves.hits, strict=True):
        assert side.ranks is not None
        whole = find_metric(f"hit@{DEPTH}").function(side.ranks.relevant, side.ranks.num_relevant)
        groups = np.array(side.ranks.groups, dtype=object)
        assert values[-1] == pytest.approx(np.mean([whole[groups == name].mean() for name in {*groups}]))


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
