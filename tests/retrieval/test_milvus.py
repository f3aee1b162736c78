"""The index in a Milvus database: Milvus Lite answers as exact search does, and holds the rows that it should."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from cache.errors import (
    ConfigError,
    DamagedStoreError,
    MissingExtraError,
    SettingsError,
    StaleStoreError,
    UnreachableError,
)
from pipeline.config import parse_config
from stages.ranking import search, unit_length
from stages.retrieval import MilvusIndex, MilvusIndexConfig, evaluate, evaluate_index, index_gallery
from stages.retrieval.gallery_rows import GalleryRows
from stages.retrieval.indexes import milvus
from tests.forks import Forks
from tests.toys.rankings import random_vectors, records_of, store_of
from tests.typed import RUN

pymilvus = pytest.importorskip("pymilvus", reason="pymilvus is not installed")
pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")

Vectors = npt.NDArray[np.float32]
MADE_BY = "n" * 64
ROWS = 70
KEYS = [str(row) for row in range(ROWS)]
COLOURS = ['a "b"', "it's", "back\\slash", "ünï", "", None, "x]"]


def drawn(rows: int, seed: int = 0) -> Vectors:
    return unit_length(np.random.default_rng(seed).normal(size=(rows, 4)))


def rows_of(keys: list[str]) -> GalleryRows:
    columns: dict[str, Any] = {"key": keys, "uri": keys, "digest": [b""] * len(keys)}
    columns["label"] = [f"label {row % 9}" if row % 4 else None for row in range(len(keys))]
    columns["attributes.base colour"] = [COLOURS[row % len(COLOURS)] for row in range(len(keys))]
    return GalleryRows.from_table(pa.table(columns))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> MilvusIndexConfig:
    return MilvusIndexConfig(str(tmp_path_factory.mktemp("milvus") / "index.db"))


@pytest.fixture
def index(config: MilvusIndexConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[MilvusIndex]:
    monkeypatch.setattr(milvus, "ROWS_A_CALL", 16)
    index = MilvusIndex.fill(config, drawn(ROWS), rows_of(KEYS), MADE_BY)
    yield index
    index.drop()


def same(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> None:
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-6)


def test_it_finds_what_exact_search_does(index: MilvusIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milvus, "_QUERIES_A_CALL", 7)
    gallery, queries, own = drawn(ROWS), drawn(20, seed=1), np.where(np.arange(20) % 2, np.arange(20), -1)
    same(index.search(queries, 6), search(gallery, queries, 6))
    same(index.search(gallery[:20], 6, own), search(gallery, gallery[:20], 6, own))
    same(index.search(queries, ROWS + 5), search(gallery, queries, ROWS + 5))  # ends in -1
    for share in (0.2, 0.8):
        allowed = np.random.default_rng(2).random(ROWS) < share
        among = np.flatnonzero(allowed)
        ids, similarity = search(gallery[among], queries, 6)
        same(index.search(queries, 6, allowed=allowed), (among[ids], similarity))
    ids, _ = index.search(queries, 3, allowed=np.zeros(ROWS, np.bool_))
    assert (ids == -1).all()


@pytest.mark.parametrize(
    "where",
    [{"label": ["label 3", "label 5"]}, {"label": [None]}, {"base colour": ["ünï", None]}]
    + [{"base colour": [colour], "label": ["label 1", "label 2", None]} for colour in COLOURS],
    ids=str,
)
def test_rows_are_filtered_by_label_and_attribute(index: MilvusIndex, where: dict[str, list[str | None]]) -> None:
    queries, allowed = drawn(5, seed=3), rows_of(KEYS).allowed(where)
    assert allowed.any()
    same(index.search(queries, 8, where=where), index.search(queries, 8, allowed=allowed))


def test_loaded_again_it_has_exactly_the_rows_that_should_be(index: MilvusIndex, config: MilvusIndexConfig) -> None:
    client, answer = index._client, index.search(drawn(9, seed=1), ROWS)
    stray = {"vector": [1.0, 0.0, 0.0, 0.0], "key": "stray", "label": None, "attribute_base_20colour": None}
    for changed in ([], [3, 40, 41], [*range(64, ROWS)]):
        client.delete(index.collection, ids=changed or [ROWS + 99])
        client.upsert(index.collection, [{"id": ROWS + 5} | stray])
        again = MilvusIndex.fill(config, drawn(ROWS), rows_of(KEYS), MADE_BY)
        assert again.collection == index.collection
        (line,) = client.query(index.collection, filter="", output_fields=["count(*)"])
        assert line["count(*)"] == ROWS
        same(again.search(drawn(9, seed=1), ROWS), answer)


def test_other_vectors_keys_or_labels_are_another_collection(index: MilvusIndex, config: MilvusIndexConfig) -> None:
    fewer, relabelled = rows_of(KEYS[:9]), rows_of(KEYS).table.set_column(3, "label", pa.array(["x"] * ROWS))
    others = [
        MilvusIndex.fill(config, drawn(ROWS), rows_of(KEYS), "o" * 64),
        MilvusIndex.fill(config, drawn(9), fewer, MADE_BY),
        MilvusIndex.fill(config, drawn(ROWS), GalleryRows.from_table(relabelled), MADE_BY),
    ]
    assert len({index.collection, *(other.collection for other in others)}) == 4
    for other in others:
        other.drop()
    assert len(index.search(drawn(1), 3)[0][0]) == 3


@pytest.mark.slow
def test_killed_while_loading_the_next_load_goes_on(tmp_path: Path) -> None:
    with Forks("tests.toys.dying:load_until_killed") as forks:
        assert forks.run(str(tmp_path), 4) == -signal.SIGKILL
        assert forks.run(str(tmp_path), 3) == 0  # two calls are missing: it would die at a third
    config = MilvusIndexConfig(str(tmp_path / "index.db"))
    table = pa.table({"key": KEYS, "uri": KEYS, "digest": [b""] * ROWS, "label": KEYS})
    index = MilvusIndex.fill(config, drawn(ROWS), GalleryRows.from_table(table), MADE_BY)
    same(index.search(drawn(9, seed=1), ROWS), search(drawn(ROWS), drawn(9, seed=1), ROWS))
    index.close()


def test_rows_are_deleted_and_ids_of_the_others_stay(index: MilvusIndex, tmp_path: Path) -> None:
    fewer = index.without([KEYS[3], *KEYS[20:50]])
    staying = fewer.ids
    assert staying.tolist() == [row for row in range(ROWS) if row != 3 and not 20 <= row < 50]
    ids, similarity = search(drawn(ROWS)[staying], drawn(9, seed=1), 12)
    same(fewer.search(drawn(9, seed=1), 12), (staying[ids], similarity))
    with pytest.raises(KeyError, match="no row of key '3'"):
        fewer.without(["3"])
    fewer.save(tmp_path)
    read = MilvusIndex.load(tmp_path, embeddings=MADE_BY, keys=fewer.keys)
    assert (read.keys, read.next_id, read.config) == (fewer.keys, ROWS, fewer.config)
    same(read.search(drawn(9, seed=1), 12), (staying[ids], similarity))
    with pytest.raises(StaleStoreError, match="embeddings: stored"):
        MilvusIndex.load(tmp_path, embeddings="o" * 64, keys=fewer.keys)
    read.without(KEYS[:1])
    with pytest.raises(DamagedStoreError, match=r"does not have the 39 rows that .* describes. Build the index again"):
        MilvusIndex.load(tmp_path, embeddings=MADE_BY, keys=fewer.keys)


def test_scores_through_it_are_those_of_exact_search(config: MilvusIndexConfig, tmp_path: Path) -> None:
    keys = [f"k{row}" for row in range(120)]
    store = store_of(tmp_path / "store", random_vectors(keys))
    records = records_of({key: f"label {row % 20}" for row, key in enumerate(keys)})
    records = replace(records, table=records.table.append_column("uri", records.table["key"]))
    index = index_gallery(store, records, config, folder=tmp_path / "index")
    arguments: dict[str, Any] = {"queries": records, "gallery": records, "metrics": ["mmp@5", "map", "hit@1"]}
    assert repr(evaluate_index(store, index, **arguments)) == repr(evaluate(store, **arguments))
    assert len(MilvusIndex.load(tmp_path / "index", embeddings=index.embeddings, keys=keys)) == 120
    index.drop()


def test_a_cluster_gives_no_more_rows_than_it_can(config: MilvusIndexConfig) -> None:
    index = MilvusIndex(config, "none", [str(row) for row in range(20_000)], MADE_BY, 4)
    index.config = MilvusIndexConfig("http://db.example:19530")
    with pytest.raises(
        SettingsError, match=r"a Milvus cluster gives at most 16,384 rows a query, and 16,385 are asked"
    ):
        index.search(drawn(1), 16_384, np.array([3]))


def test_a_database_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(milvus, "_CONNECT_S", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for listens in (False, True):  # nothing there, and something that says nothing
            if listens:
                silent.listen(1)
            with pytest.raises(
                UnreachableError, match=rf"Milvus at {uri}: .*is the server running, is MILVUS_TOKEN right\?"
            ):
                MilvusIndex(MilvusIndexConfig(uri), "none", KEYS, MADE_BY, 4)
    with pytest.raises(UnreachableError, match="does its folder exist, and has no other process opened it"):
        MilvusIndex(MilvusIndexConfig(str(tmp_path / "no" / "index.db")), "none", KEYS, MADE_BY, 4)


@pytest.mark.parametrize(("module", "what"), [("pymilvus", "pymilvus"), ("milvus_lite", "Milvus Lite")])
def test_a_missing_extra_is_named(module: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"{what}, which .* is not installed.*permafrost-retrieval\[milvus\]"):
        MilvusIndex(MilvusIndexConfig("index.db"), "none", KEYS, MADE_BY, 4)


def test_a_run_file_names_a_database(tmp_path: Path) -> None:
    def config(uri: str) -> Any:
        return parse_config(f'{RUN}index = {{ kind = "milvus", uri = "{uri}" }}\n', folder=tmp_path).retrieval.index

    assert config("index.db") == MilvusIndexConfig(str(tmp_path / "index.db"))
    assert config("http://db:19530") == MilvusIndexConfig("http://db:19530")
    with pytest.raises(ConfigError, match=r"uri is http://HOST:PORT of a Milvus server, or a path that ends in \.db"):
        config("db:19530")
    with pytest.raises(ConfigError, match="holds a password or token: leave it out, and set the variable MILVUS_TOKEN"):
        config("http://me:secret@db:19530")
