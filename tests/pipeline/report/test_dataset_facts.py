"""Facts of the data by the protocol that is scored, and what a run notes of them."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from pipeline.config import parse_config
from pipeline.dataset import remarks
from pipeline.views.report.origins import domain_facts
from stages.records import Records
from stages.retrieval.protocols import ListedConfig

RUN = """
artifacts = "out"
dataset = { kind = "table", path = "labels.csv", label = "label", query = "query", gallery = "gallery" }
backbones = [{ kind = "timm", name = "test_resnet", weights = "random" }]
"""


@pytest.fixture
def records() -> Records:
    """Three queries, of which the lists answer two and labels the first alone."""
    lists = [["g1"], ["g2"], [], None, None]
    columns = {
        "key": ["q1", "q2", "q3", "g1", "g2"],
        "digest": pa.array([bytes([row]) * 32 for row in range(5)], pa.binary(32)),
        "label": ["x", "alone", "lost", "x", "y"],
        "domain": pa.nulls(5, pa.string()),
        "split": ["query"] * 3 + ["gallery"] * 2,
        "problem": pa.nulls(5, pa.string()),
        "attributes.relevant": [None if keys is None else json.dumps(keys) for keys in lists],
    }
    return Records(pa.table(columns), {"query": ("query",), "gallery": ("gallery",)})


def test_what_there_is_to_find_is_what_the_protocol_calls_relevant(records: Records) -> None:
    assert [facts.unanswerable for facts in domain_facts(records)] == [2]
    assert [facts.unanswerable for facts in domain_facts(records, ListedConfig())] == [1]


@pytest.mark.parametrize(
    ("retrieval", "noted"),
    [
        ("", ["2 queries have nothing to find in the gallery, and no part in any mean"]),
        (
            '[retrieval]\nunanswerable = "zero"\n',
            ["2 queries have nothing to find in the gallery, and count 0 in every mean"],
        ),
        ('[retrieval]\nprotocol = { kind = "listed" }\nmetrics = ["map"]\n', []),
    ],
)
def test_queries_without_their_label_in_the_gallery_are_noted_where_labels_judge(
    records: Records, retrieval: str, noted: list[str]
) -> None:
    notes = remarks(parse_config(RUN + retrieval), records, records.counts())
    assert [note for note in notes if "nothing to find" in note] == noted
