"""An index built on disk answers as the one in memory does, reads rows in blocks, and is whole or begun again."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import pytest

from cache.errors import DamagedStoreError, SettingsError, StaleStoreError
from cache.storage import LocalStorage
from stages.ranking import unit_length
from stages.records import Records
from stages.retrieval import (
    GalleryIndex,
    IvfPqIndexConfig,
    OpqIndexConfig,
    RabitqIndexConfig,
    RefineConfig,
    ScalarIndexConfig,
    evaluate_index,
    index_gallery,
)
from stages.retrieval.gallery import StoredRows
from stages.retrieval.indexes import faiss_search, kinds, on_disk
from stages.retrieval.indexes.kinds import BuiltConfig
from stages.retrieval.indexes.on_disk import build_on_disk
from tests.forks import Forks
from tests.toys.rankings import random_vectors, records_of, store_of

Vectors = npt.NDArray[np.float32]
MADE_BY = "n" * 64
CONFIG = IvfPqIndexConfig(bytes=4, lists=5, probes=3, on_disk=True)
REFINED = replace(CONFIG, refine=RefineConfig(candidates=8))
KEYS = [str(row) for row in range(700)]


def drawn(rows: int, seed: int = 0) -> Vectors:
    return unit_length(np.random.default_rng(seed).normal(size=(rows, 8)))


@pytest.mark.parametrize("config", [CONFIG, REFINED], ids=["codes", "refined"])
def test_it_answers_as_the_index_in_memory_of_the_same_settings(
    config: IvfPqIndexConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_disk, "SHARD_ROWS", 256)  # three shards, the last not full
    vectors, queries = drawn(700), drawn(40, seed=1)
    index = build_on_disk(tmp_path, vectors, KEYS, MADE_BY, config)
    in_memory = GalleryIndex.build(vectors, KEYS, MADE_BY, replace(config, on_disk=False))
    (file,) = tmp_path.rglob("gallery.faiss")
    assert file.read_bytes() == faiss.serialize_index(in_memory.index).tobytes()
    allowed, own = np.arange(700) % 3 == 0, np.arange(40)
    for ours, theirs in (
        (index.search(queries, 20), in_memory.search(queries, 20)),
        (index.search(queries, 9, own, allowed=allowed), in_memory.search(queries, 9, own, allowed=allowed)),
    ):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])
    assert not [*tmp_path.glob("building-*")]
    saved = tmp_path / "elsewhere"
    index.save(saved)
    again = GalleryIndex.load(saved, embeddings=MADE_BY, keys=KEYS, config=config, dim=8)
    np.testing.assert_array_equal(again.search(queries, 20)[0], index.search(queries, 20)[0])
    files = [*saved.rglob("gallery.faiss"), *saved.rglob("gallery.npy")]
    assert 700 * index.bytes_a_row == pytest.approx(sum(path.stat().st_size for path in files), abs=200)


class Counted:
    """Rows that remember how many of them were asked for at once."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors, self.most, self.read = vectors, 0, 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.vectors.shape

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> Vectors:
        self.most, self.read = max(self.most, len(rows)), self.read + len(rows)
        return self.vectors[rows]


@pytest.mark.parametrize(
    "config",
    [CONFIG, OpqIndexConfig(bytes=4), ScalarIndexConfig(lists=5, probes=3), RabitqIndexConfig(lists=5, probes=3)],
    ids=lambda config: config.kind,
)
def test_rows_are_learned_from_by_sample_and_read_in_blocks(
    config: BuiltConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_search, "_ROWS_AT_ONCE", 64)
    for module in (faiss_search, kinds):
        monkeypatch.setattr(module, "SAMPLE", 300)
    rows = Counted(drawn(700))
    if isinstance(config, IvfPqIndexConfig):
        build_on_disk(tmp_path, rows, KEYS, MADE_BY, config)
    else:
        GalleryIndex.build(rows, KEYS, MADE_BY, config)
    assert rows.most <= 300
    assert rows.read <= 700 + 2 * 300


@pytest.mark.slow
def test_killed_at_any_write_the_next_build_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    with Forks("tests.toys.dying:build_until_killed") as forks:
        assert forks.run(str(tmp_path / "whole"), 99) == 0
        whole = {key: LocalStorage(tmp_path / "whole").read(key) for key in LocalStorage(tmp_path / "whole").list()}
        for write in (1, 3, 5, 7):  # of: what is learned, three shards, two files of the snapshot, and what names them
            folder = tmp_path / str(write)
            assert forks.run(str(folder), write) == -signal.SIGKILL
            with pytest.raises(DamagedStoreError, match="holds no finished index"):
                GalleryIndex.load(folder, embeddings=MADE_BY)
            writes_left = max(8 - write, 3)
            assert forks.run(str(folder), writes_left + 1) == 0  # it would die at one more
            assert {key: LocalStorage(folder).read(key) for key in LocalStorage(folder).list()} == whole


def test_what_was_begun_for_other_rows_is_not_gone_on_with(tmp_path: Path) -> None:
    other = tmp_path / "building-0123456789abcdef"
    other.mkdir()
    (other / "trained.faiss").write_bytes(b"of other rows")
    index = build_on_disk(tmp_path, drawn(700), KEYS, MADE_BY, CONFIG)
    assert len(index) == 700
    assert not [*tmp_path.glob("building-*")]
    with pytest.raises(StaleStoreError, match="embeddings: stored"):
        GalleryIndex.load(tmp_path, embeddings="e" * 64)


def test_it_is_built_of_a_store_in_a_folder_and_scores_as_the_one_in_memory(tmp_path: Path) -> None:
    keys = [f"k{row}" for row in range(300)]
    store = store_of(tmp_path / "store", random_vectors(keys))
    records: Records = records_of({key: f"label {row % 40}" for row, key in enumerate(keys)})
    config = replace(CONFIG, bytes=store.dim, lists=4, probes=4)
    index = index_gallery(store, records, config, folder=tmp_path / "index")
    read = index_gallery(store, records, config, folder=tmp_path / "index")
    in_memory = index_gallery(store, records, replace(config, on_disk=False))
    assert read.mapped is not None
    scores = [
        repr(evaluate_index(store, each, queries=records, gallery=records, metrics=["mmp@5", "map"]))
        for each in (index, read, in_memory)
    ]
    assert scores[0] == scores[1] == scores[2]
    np.testing.assert_array_equal(
        StoredRows(store, records.digests)[np.arange(3)], unit_length(store.read(records.digests[:3]))
    )


def test_what_an_index_on_disk_cannot_do_is_refused_by_cause(tmp_path: Path) -> None:
    index = build_on_disk(tmp_path, drawn(700), KEYS, MADE_BY, CONFIG)
    with pytest.raises(SettingsError, match=r"does not change: build it of the other rows, or leave on_disk out"):
        index.with_rows(["new"], drawn(1))
    with pytest.raises(SettingsError, match="does not change"):
        index.without(["3"])
    with pytest.raises(SettingsError, match=r"built in a folder: index_gallery\(\.\.\., folder="):
        GalleryIndex.build(drawn(700), KEYS, MADE_BY, CONFIG)
    store, records = store_of(tmp_path / "store", random_vectors(KEYS)), records_of(dict.fromkeys(KEYS, "x"))
    with pytest.raises(SettingsError, match="kept in a folder of a local disk that can be written: name one"):
        index_gallery(store, records, CONFIG)
    with pytest.raises(SettingsError, match="it has 700 rows, got 699 keys"):
        build_on_disk(tmp_path / "other", drawn(700), KEYS[:-1], MADE_BY, CONFIG)
