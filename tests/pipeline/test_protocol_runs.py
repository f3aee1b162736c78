"""``[retrieval] protocol`` of a run file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.errors import ConfigError
from pipeline.config import RunConfig, parse_config
from pipeline.dataset import Run
from pipeline.progress import Display
from pipeline.scores import scored_data
from stages.records import Records
from stages.retrieval.evaluate import score
from stages.retrieval.protocols import LeaveOneOutConfig, MetConfig, RevisitedConfig
from tests.toys.rankings import records_of, store_of

RUN = """
artifacts = "artifacts/x"
[dataset]
path = "labels.csv"
label = "label"
[[backbones]]
kind = "bundled"
name = "efficientnet_lite0"
[retrieval]
"""


def retrieval(text: str) -> RunConfig:
    return parse_config(RUN + text)


def test_a_protocol_brings_its_metrics_and_usual_stands_for_them() -> None:
    assert retrieval("").retrieval.metrics == ("mmp@5", "map@r", "hit@1", "recall@10", "map")
    revisited = retrieval('protocol = { kind = "revisited", level = "hard" }').retrieval
    assert revisited.protocol == RevisitedConfig(level="hard")
    assert revisited.metrics == ("map_trapezoid", "mp@1", "mp@5", "mp@10")
    sop = retrieval('protocol = { kind = "leave_one_out", ks = [1, 10] }\nmetrics = ["usual", "map@100/min", "map@r"]')
    assert sop.retrieval.protocol == LeaveOneOutConfig(ks=(1, 10))
    assert sop.retrieval.metrics == ("hit@1", "hit@10", "map@r", "map@100/min")
    assert retrieval('protocol = { kind = "met" }').retrieval.metrics == ("gap", "gap-", "acc")
    assert retrieval('protocol = { kind = "small_data" }').retrieval.metrics == ("legacy_map@10",)


@pytest.mark.parametrize(
    ("text", "roles"),
    [
        ("", set()),
        ('protocol = { kind = "met" }', {"validation_query", "validation_gallery"}),
        ('index = { kind = "auto" }', {"validation_query"}),
        ('rerank = [{ kind = "whitening" }]', {"train"}),
    ],
)
def test_scores_follow_from_the_records_that_something_was_tuned_on(text: str, roles: set[str]) -> None:
    config, keys = retrieval(text), ["train", "validation_query", "validation_gallery", "query", "gallery"]
    table = records_of(dict.fromkeys(keys, "x")).table.append_column("split", [keys])
    records = Records(table, {key: (key,) for key in keys})
    run = Run(Path("run.toml"), config, records, Display(quiet=True))
    data, changed = scored_data(run), set()
    for place, key in enumerate(keys[:3]):
        labels = ["x"] * place + ["y"] + ["x"] * (4 - place)
        other = Records(table.set_column(table.column_names.index("label"), "label", [labels]), records.roles)
        if scored_data(replace(run, records=other)) != data:
            changed.add(key)
    assert changed == roles


@pytest.mark.parametrize("kind", ["by_label", "query_gallery", "products10k", "uned", "gldv2", "ilias", "listed"])
def test_every_kind_of_protocol_can_be_named(kind: str) -> None:
    protocol = retrieval(f'protocol = {{ kind = "{kind}" }}').retrieval.protocol
    assert protocol.kind == kind


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('protocol = { kind = "sop" }', r"retrieval\.protocol: kind must be one of .*'revisited'.*, got 'sop'"),
        ('protocol = { level = "hard" }', r"retrieval\.protocol: this needs kind"),
        (
            'protocol = { kind = "revisited", level = "harder" }',
            r"retrieval\.protocol\.level: must be 'easy', 'medium' or 'hard', got 'harder'",
        ),
        ('protocol = { kind = "revisited", lvl = "hard" }', r"retrieval\.protocol\.lvl: unknown key"),
        ('protocol = { kind = "leave_one_out", ks = [] }', r"ks is one or more ranks, different whole numbers"),
        ('ties = "expected"\nmetrics = ["mp@5"]', r"retrieval: mp@5 divides by what depends on the order"),
        ('ties = "mean"', r"retrieval\.ties: must be 'row' or 'expected', got 'mean'"),
        ('unanswerable = "drop"', r"retrieval\.unanswerable: must be 'leave_out', 'zero' or 'error', got 'drop'"),
        ('metrics = ["map@100"]', r"retrieval: map@100 does not say what it is divided by"),
        ('metrics = ["gap"]', r"gap is a metric of recognition"),
        ('protocol = { kind = "met" }\nmetrics = ["map"]', r"metrics of recognition are gap, gap-, acc, got 'map'"),
    ],
)
def test_what_is_wrong_with_a_protocol_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        retrieval(text)


def test_a_run_is_scored_by_its_protocol_and_policies(tmp_path: Path) -> None:
    keys = ["a", "b", "c", "d", "lone"]
    vectors = dict(zip(keys, np.eye(5)[[0, 0, 1, 1, 2]], strict=True))
    store = store_of(tmp_path, vectors)
    table = records_of({"a": "x", "b": "x", "c": "y", "d": "y", "lone": "z"}).table
    splits = table.append_column("split", [["test"] * 5])
    records = Records(splits, {"query": ("test",), "gallery": ("test",)})
    text = 'protocol = { kind = "leave_one_out", ks = [1] }\nunanswerable = "zero"'
    (scores,) = score(store, records, retrieval(text).retrieval)
    assert (scores.value("hit@1"), scores[0].queries, scores.unanswerable) == (4 / 5, 5, 1)


def test_met_asks_the_distractors_too_and_other_protocols_do_not(tmp_path: Path) -> None:
    vectors = dict(zip(("a", "b", "q", "other"), np.eye(4)[[0, 1, 0, 1]], strict=True))
    table = records_of({"a": "x", "b": "y", "q": "x", "other": None}).table
    reported = table.append_column("split", [["exhibit", "exhibit", "query", "query_distractor"]])
    roles = {"query": ("query",), "gallery": ("exhibit",), "query_distractor": ("query_distractor",)}
    records, store = Records(reported, roles), store_of(tmp_path, vectors)
    config = retrieval('protocol = { kind = "met", neighbours = 1, temperature = 10 }')
    assert isinstance(config.retrieval.protocol, MetConfig)
    (scores,) = score(store, records, config.retrieval)
    assert scores[0].queries == 2
    assert scores.value("acc") == 1
    (scores,) = score(store, records, retrieval('metrics = ["hit@1"]').retrieval)
    assert scores[0].queries == 1
