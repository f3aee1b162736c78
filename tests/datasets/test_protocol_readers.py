"""What the readers of benchmarks hand over is what their protocols judge by."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from stages.records import Records
from stages.retrieval import Scores, evaluate_ranking
from stages.retrieval.protocols import Gldv2Config, ListedConfig, RankedConfig, RevisitedConfig, UnedConfig
from tests.benchmark_truths import NAMES, QUERIES, TRUTHS, gldv2, instre, uned
from tests.layouts import put, read


def in_gallery_order(records: Records, protocol: RankedConfig) -> Scores:
    """The scores where every query finds the gallery in its own order."""
    queries, gallery = records.split("query"), records.split("gallery")
    rows = np.tile(np.arange(len(gallery)), (len(queries), 1))
    return evaluate_ranking(rows, queries=queries, gallery=gallery, protocol=protocol)


def test_google_landmarks(tmp_path: Path) -> None:
    # The first query's three are the first three of the index; the second's one is the fourth.
    scores = in_gallery_order(read("gldv2", gldv2(tmp_path)), Gldv2Config())
    assert (scores.value("map@100/min", "Private"), scores.value("map@100/min", "Public")) == (1, 1 / 4)


@pytest.mark.parametrize(
    ("level", "areas"),
    [
        # all_souls: easy 1, hard 2 and 4, junk 5. ashmolean: hard 3 and 4, nothing easy.
        ("easy", {"all_souls_000013": 1.0}),
        (
            "medium",
            {
                "all_souls_000013": (1 + 1 + (2 / 3 + 3 / 4) / 2) / 3,
                "ashmolean_000305": ((0 + 1 / 3) / 2 + (1 / 3 + 2 / 4) / 2) / 2,
            },
        ),
        (
            "hard",  # without the easy one, all_souls has 1 and 3
            {
                "all_souls_000013": (1 + (1 / 2 + 2 / 3) / 2) / 2,
                "ashmolean_000305": ((0 + 1 / 3) / 2 + (1 / 3 + 2 / 4) / 2) / 2,
            },
        ),
    ],
)
def test_revisited_oxford(tmp_path: Path, level: str, areas: dict[str, float]) -> None:
    held = {"imlist": NAMES, "qimlist": QUERIES, "gnd": TRUTHS}
    (tmp_path / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(held))
    put(tmp_path, *(f"jpg/{name}.jpg" for name in (*NAMES, *QUERIES)))
    records = read("roxford5k", tmp_path, missing_images="record")
    scores = in_gallery_order(records, RevisitedConfig(level=level))  # type: ignore[arg-type]
    measured = dict(zip(scores.query_keys, scores.per_query["map_trapezoid"].tolist(), strict=True))
    assert measured == pytest.approx(areas)


def test_instre(tmp_path: Path) -> None:
    root = instre(tmp_path, [([1, 2], [10, 20, 110, 220]), ([3], [0.4, 1.6, 30, 40])])
    scores = in_gallery_order(read("instre", root, missing_images="record"), ListedConfig())
    assert scores.per_query["map"].tolist() == [1, pytest.approx(1 / 3)]


@pytest.mark.parametrize(
    ("gallery", "first"), [("merged", [1, 1, 0, 0]), ("separate", [1, 1, 1, 1])], ids=["merged", "separate"]
)
def test_uned(tmp_path: Path, gallery: str, first: list[float]) -> None:
    # The gallery: two cars of one class, which are queries too; two exhibits of Met; a landmark. The landmark of the
    # query is the second of its two.
    protocol = UnedConfig(gallery=gallery)  # type: ignore[arg-type]
    scores = in_gallery_order(read("uned", uned(tmp_path)), protocol)
    assert scores.query_domains == ("cars", "cars", "met", "gldv2")
    assert scores.per_query["hit@1"].tolist() == first
    assert scores.value("hit@1", "mean") == pytest.approx(sum(first[1:]) / 3)
