"""Through an exact index, and after a post-processing that moves nothing, every number is that of exact search."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cache import FeatureStore
from cache.errors import SettingsError
from stages.ranking import metric_names
from stages.records import Records
from stages.retrieval import KReciprocalConfig, evaluate, evaluate_index, evaluate_reranked, index_gallery
from stages.retrieval.protocols import LeaveOneOutConfig
from tests.toys.protocols import RANKED
from tests.toys.rankings import random_vectors, records_of, store_of

METRICS = [name.replace("@k", f"@{k}") for name in metric_names() for k in (1, 5, 40)]
GALLERY = [f"g{row}" for row in range(90)]
QUERIES = [f"q{row}" for row in range(20)]
KEYS = [*QUERIES, *GALLERY]
RNG = np.random.default_rng(0)
LABELS = {key: f"label {RNG.integers(30)}" for key in KEYS}  # few rows of one label, many of one colour
DOMAINS = {key: "ab"[RNG.integers(2)] for key in KEYS}
SEVERAL = [" | ".join(sorted({f"colour {RNG.integers(4)}" for _ in range(2)})) for _ in KEYS]
LISTS = [dict(zip(("easy", "hard", "junk"), np.split(RNG.permutation(GALLERY)[:45], 3), strict=True)) for _ in KEYS]


def sides(*, domains: bool) -> tuple[Records, Records]:
    """Twenty queries and a gallery of ninety; one image of each failed."""
    table = records_of(LABELS, domains=DOMAINS if domains else None).table
    table = table.append_column("attributes.landmarks", pa.array(SEVERAL))
    table = table.append_column("attributes.usage", pa.array(list(DOMAINS.values())))
    for name in ("easy", "hard", "junk"):
        lists = [json.dumps(lists[name].tolist()) for lists in LISTS]
        table = table.append_column(f"attributes.{name}", pa.array(lists))
    table = table.append_column("attributes.relevant", table["attributes.easy"])
    records = Records(table, {})
    return records.take(np.arange(len(QUERIES))), records.take(np.arange(len(QUERIES), len(KEYS)))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    vectors = random_vectors([key for key in KEYS if key not in ("q3", "g7")])
    vectors["g8"] = vectors["g9"]  # rows that tie
    return store_of(tmp_path_factory.mktemp("store"), vectors, failed=["q3", "g7"])


@pytest.mark.parametrize("domains", [False, True])
@pytest.mark.parametrize("name", RANKED)
def test_an_exact_index_scores_what_exact_search_does(store: FeatureStore, name: str, domains: bool) -> None:
    protocol, (queries, gallery) = RANKED[name], sides(domains=domains)
    if isinstance(protocol, LeaveOneOutConfig):
        queries = gallery
    arguments: dict[str, Any] = {"queries": queries, "gallery": gallery, "protocol": protocol}
    exact = evaluate(store, **arguments, metrics=METRICS)
    assert repr(evaluate_index(store, index_gallery(store, gallery), **arguments, metrics=METRICS)) == repr(exact)
    unmoved = KReciprocalConfig(original=1.0)
    assert repr(evaluate_reranked(store, unmoved, train=gallery, **arguments, metrics=METRICS)) == repr(exact)
    for metric in METRICS:  # alone, a metric makes a list no longer than it looks
        alone = evaluate_index(store, index_gallery(store, gallery), **arguments, metrics=[metric])
        assert alone.per_query[metric].tolist() == exact.per_query[metric].tolist()


def test_an_index_of_other_rows_is_refused(store: FeatureStore) -> None:
    queries, gallery = sides(domains=False)
    index = index_gallery(store, gallery).without(["g0"])
    with pytest.raises(SettingsError, match="the index has 88 rows, which are not the 89 gallery images"):
        evaluate_index(store, index, queries=queries, gallery=gallery, metrics=["hit@1"])
