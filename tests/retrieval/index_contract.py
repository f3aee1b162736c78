"""What every kind of index must hold. Inherit :class:`IndexContract` and give it ``index`` and ``vectors``."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import pytest

from cache.storage import LocalStorage
from stages.retrieval import GalleryIndex


class IndexContract:
    """``index`` has the keys ``image 0`` to ``image 599`` for ``vectors`` (700, E); the rows beyond are to be added."""

    @pytest.fixture
    def index(self) -> GalleryIndex:
        raise NotImplementedError

    @pytest.fixture
    def vectors(self) -> npt.NDArray[np.float32]:
        raise NotImplementedError

    def test_ids_stay_when_rows_come_and_go(self, index: GalleryIndex, vectors: npt.NDArray[np.float32]) -> None:
        rows, more = len(index), vectors[600:620]
        fewer = index.without(index.keys[100:300])
        larger = fewer.with_rows([f"later {row}" for row in range(20)], more)
        assert larger.ids[-20:].tolist() == list(range(rows, rows + 20))
        assert len(larger) == rows - 200 + 20
        ids, _ = larger.search(vectors[620:680], 12)
        assert not np.isin(ids, np.arange(100, 300)).any()
        names = dict(enumerate(index.keys)) | {rows + row: f"later {row}" for row in range(20)}
        assert larger.keys_of(ids[0]) == [names.get(int(row)) for row in ids[0]]
        assert larger.keys_of(np.array([100, -1, 99, rows + 19])) == [None, None, "image 99", "later 19"]
        again = larger.without(["later 19"]).with_rows(["image 100"], more[:1])
        assert again.ids[-1] == rows + 20  # an id is never given again

    def test_an_index_never_changes(self, index: GalleryIndex, vectors: npt.NDArray[np.float32]) -> None:
        before = bytes(faiss.serialize_index(index.index))
        answer = index.search(vectors[620:640], 7)
        larger = index.with_rows(["new"], vectors[600:601])
        larger.without(index.keys[:50]).with_rows(["newer"], vectors[601:602])
        assert bytes(faiss.serialize_index(index.index)) == before
        for now, then in zip(index.search(vectors[620:640], 7), answer, strict=True):
            np.testing.assert_array_equal(now, then)
        assert (len(index), len(larger)) == (600, 601)

    def test_a_saved_index_answers_as_before(
        self, index: GalleryIndex, vectors: npt.NDArray[np.float32], tmp_path: Path
    ) -> None:
        index = index.without(["image 3", "image 599"])
        index.save(tmp_path)
        loaded = GalleryIndex.load(
            tmp_path, embeddings=index.embeddings, keys=index.keys, config=index.config, dim=vectors.shape[1]
        )
        assert (loaded.keys, loaded.next_id, loaded.config) == (index.keys, 600, index.config)
        for ours, theirs in zip(index.search(vectors[:9], 5), loaded.search(vectors[:9], 5), strict=True):
            np.testing.assert_array_equal(ours, theirs)

    def test_a_reader_keeps_its_snapshot_when_another_is_saved(
        self, index: GalleryIndex, vectors: npt.NDArray[np.float32], tmp_path: Path
    ) -> None:
        index.save(LocalStorage(tmp_path))
        written = {key: LocalStorage(tmp_path).read(key) for key in LocalStorage(tmp_path).list()}
        reader = GalleryIndex.load(tmp_path, embeddings=index.embeddings)
        answer = reader.search(vectors[:9], 5)
        larger = index.with_rows(["new"], vectors[600:601])
        larger.save(tmp_path)
        for now, then in zip(reader.search(vectors[:9], 5), answer, strict=True):
            np.testing.assert_array_equal(now, then)
        assert GalleryIndex.load(tmp_path, embeddings=index.embeddings).keys == larger.keys
        swapped = set(LocalStorage(tmp_path).list())
        assert swapped & set(written) == {"gallery.json"}  # the old snapshot is gone, and none of its files was reused
        assert len(swapped) == len(written)
