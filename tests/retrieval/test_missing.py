"""Every protocol, metric and policy where something is missing: the list, what it names, an image, a domain, a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cache import FeatureStore
from cache.errors import NothingToScoreError, PermafrostError, RecordsError
from stages.ranking import metric_names
from stages.records import Records
from stages.retrieval import Scores, evaluate, evaluate_attributes, evaluate_index, index_gallery
from stages.retrieval.protocols import LeaveOneOutConfig, MetConfig, ProtocolConfig, UnedConfig
from tests.toys.protocols import RANKED
from tests.toys.rankings import random_vectors, records_of, store_of

METRICS = [name.replace("@k", f"@{k}") for name in metric_names() for k in (1, 5)]
AVERAGED = [name for name in METRICS if not (name.startswith("mp@") or name.endswith("/hits"))]
QUERIES, GALLERY = [f"q{row}" for row in range(4)], [f"g{row}" for row in range(6)]
DOMAIN = dict(zip([*QUERIES, *GALLERY], "abababababab", strict=False))  # g0, g2 and g4 are in a
FAILED: Mapping[str, list[str]] = {
    "nothing failed": [],
    "one image of each side": ["q1", "g1"],
    "the gallery": GALLERY,
    "the queries": QUERIES,
    "the gallery of a domain": ["g0", "g2", "g4"],
    "the queries of a domain": ["q0", "q2"],
}
EMPTY = (None, "", "[]", "|")
PROTOCOLS: Mapping[str, ProtocolConfig] = {**RANKED, "met": MetConfig(neighbours=3, temperature=10.0)}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, FeatureStore]:
    folder = tmp_path_factory.mktemp("stores")
    return {
        name: store_of(
            folder / name, random_vectors([key for key in [*QUERIES, *GALLERY] if key not in failed]), failed=failed
        )
        for name, failed in FAILED.items()
    }


def records(keys: list[str], cell: str | None, *, domains: bool) -> Records:
    """Records of one label, all of whose lists are ``cell``."""
    table = records_of(dict.fromkeys(keys, "x"), domains=DOMAIN if domains else None).table
    for name in ("landmarks", "easy", "hard", "junk", "relevant"):
        table = table.append_column(f"attributes.{name}", pa.array([cell] * len(keys), pa.string()))
    return Records(table.append_column("attributes.usage", [["Public"] * len(keys)]), {})


def outcome(store: FeatureStore, queries: Records, gallery: Records, protocol: ProtocolConfig, ties: Any) -> str:
    """The scores, or why there are none; anything but an error of ours fails the test."""
    metrics = None if isinstance(protocol, MetConfig) else METRICS if ties == "row" else AVERAGED
    sides: dict[str, Any] = {"queries": queries, "gallery": gallery, "protocol": protocol, "metrics": metrics}
    try:
        scores = evaluate(store, ties=ties, **sides)
    except (NothingToScoreError, RecordsError) as error:
        return str(error)
    assert all(0 <= one.low <= one.value + 1e-9 <= one.high + 2e-9 <= 1 + 3e-9 for one in scores)
    if ties == "row" and metrics is not None:
        assert repr(evaluate_index(store, index_gallery(store, gallery), **sides)) == repr(scores)
    return repr(scores)


@pytest.mark.parametrize("ties", ["row", "expected"])
@pytest.mark.parametrize("domains", [False, True])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_an_empty_list_is_no_list_and_whatever_is_missing_is_a_score_or_says_why(
    stores: Mapping[str, FeatureStore], name: str, domains: bool, ties: str
) -> None:
    protocol = PROTOCOLS[name]
    if isinstance(protocol, MetConfig) and ties == "expected":
        pytest.skip("Met says itself what counts where similarities tie")
    for store in stores.values():
        for asking, searched in ((4, 6), (1, 6), (1, 1)):
            outcomes = set()
            for cell in EMPTY:
                gallery = records(GALLERY[:searched], cell, domains=domains)
                queries = records(QUERIES[:asking], cell, domains=domains)
                if isinstance(protocol, LeaveOneOutConfig):
                    queries = gallery
                outcomes.add(outcome(store, queries, gallery, protocol, ties))
            assert len(outcomes) == 1, outcomes


@pytest.mark.parametrize("name", ["revisited", "gldv2", "listed", "by several labels", "uned"])
def test_a_list_that_names_nobody_is_refused_by_name_or_finds_nothing(
    stores: Mapping[str, FeatureStore], name: str
) -> None:
    queries, gallery = (records(keys, '["nobody"]', domains=False) for keys in (QUERIES, GALLERY))
    scores = outcome(stores["nothing failed"], queries, gallery, PROTOCOLS[name], "row")
    if name in ("by several labels", "uned"):  # a label of that name, which all have
        assert scores.startswith("Scores(")
    else:
        assert "query 'q0' lists 'nobody' as relevant, which is no key of the gallery" in scores


@pytest.mark.parametrize("cell", EMPTY)
def test_an_attribute_that_lists_nothing_is_not_asked_for(stores: Mapping[str, FeatureStore], cell: str | None) -> None:
    def scored(values: list[str | None]) -> Scores:
        table = records_of(dict.fromkeys(GALLERY)).table
        table = table.append_column("attributes.a", pa.array(["u", "u", "v", "v", "v", "u"]))
        table = table.append_column("attributes.b", pa.array(values, pa.string()))
        every = Records(table, {})
        return evaluate_attributes(stores["nothing failed"], queries=every, gallery=every)

    assert repr(scored(["s", "t|s", cell, "t", cell, "s"])) == repr(scored(["s", "t|s", None, "t", None, "s"]))
    table = records_of(dict.fromkeys(GALLERY)).table.append_column("attributes.a", pa.array([cell] * 6, pa.string()))
    nothing = Records(table, {})
    with pytest.raises(PermafrostError, match=r"none of the 6 queries is like any"):
        evaluate_attributes(stores["nothing failed"], queries=nothing, gallery=nothing)


def test_a_domain_whose_gallery_failed_has_no_score_and_the_others_have(stores: Mapping[str, FeatureStore]) -> None:
    queries, gallery = (records(keys, None, domains=True) for keys in (QUERIES, GALLERY))
    store = stores["the gallery of a domain"]
    scores = evaluate(store, queries=queries, gallery=gallery, protocol=UnedConfig(gallery="separate"))
    assert scores.unscored_domains == ("a",)
    assert (scores.value("hit@1", "b"), scores.failed_gallery, scores.unanswerable) == (1.0, 3, 2)
    assert np.isfinite([score.value for score in scores]).all()
