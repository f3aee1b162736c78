"""Features that another program computed: read, checked, kept as any other."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from cache import FeatureStore, digest_bytes
from cache.errors import RecordsError, StaleStoreError
from stages.datasets import TableConfig
from stages.extraction import PrecomputedConfig, import_features, precomputed
from stages.extraction.precomputed import find_imported
from stages.records import Records, read_records

KEYS = ["a", "b", "c"]
VECTORS = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


def rows(folder: Path, keys: list[str] = KEYS) -> Records:
    (folder / "rows.csv").write_text("key,label\n" + "".join(f"{key},x\n" for key in keys))
    return read_records(TableConfig(path=str(folder / "rows.csv"), label="label", images=False))


def table(vectors: object = VECTORS.tolist(), keys: list[str | None] | None = None) -> pa.Table:
    return pa.table({"key": pa.array(keys or KEYS, pa.string()), "vector": vectors})


def save(folder: Path, kind: str) -> PrecomputedConfig:
    path = folder / f"features.{kind}"
    match kind:
        case "npy":
            np.save(path, VECTORS)
            (folder / "features.keys.txt").write_text("a\nb\nc\n")
        case "parquet":
            pq.write_table(table(), path)
        case "feather":
            pa.feather.write_feather(table(), path)
        case "saved":  # as datasets.Dataset.save_to_disk leaves it: streams, and a list of them
            path.mkdir()
            for number, part in enumerate((table().slice(0, 2), table().slice(2))):
                with (
                    pa.OSFile(str(path / f"data-{number}.arrow"), "wb") as file,
                    pa.ipc.new_stream(file, part.schema) as out,
                ):
                    out.write_table(part)
            (path / "state.json").write_text(
                '{"_data_files": [{"filename": "data-0.arrow"}, {"filename": "data-1.arrow"}]}'
            )
    return PrecomputedConfig(path=str(path), name="api")


@pytest.mark.parametrize("kind", ["npy", "parquet", "feather", "saved"])
def test_every_format_gives_each_record_the_feature_of_its_key(tmp_path: Path, kind: str) -> None:
    records = rows(tmp_path, ["c", "a", "b"])
    filled = import_features(save(tmp_path, kind), records, tmp_path / "features")
    assert filled.computed == 3
    assert filled.store.read(records.digests).tolist() == [[5, 6], [1, 2], [3, 4]]
    assert filled.store.name == "api"


def test_more_records_take_the_rows_that_are_missing_alone(tmp_path: Path) -> None:
    config = save(tmp_path, "parquet")
    import_features(config, rows(tmp_path, ["a"]), tmp_path / "features")
    filled = import_features(config, rows(tmp_path), tmp_path / "features")
    assert filled.computed == 2
    assert filled.store.read(rows(tmp_path).digests).tolist() == VECTORS.tolist()


def test_a_file_with_other_numbers_is_another_store(tmp_path: Path) -> None:
    first = import_features(save(tmp_path, "npy"), rows(tmp_path), tmp_path / "features").store
    np.save(tmp_path / "features.npy", VECTORS + 1)
    second = import_features(
        PrecomputedConfig(path=str(tmp_path / "features.npy"), name="api"), rows(tmp_path), tmp_path / "features"
    ).store
    assert first.path != second.path
    assert second.read(rows(tmp_path).digests).tolist() == (VECTORS + 1).tolist()


def test_a_column_of_digests_comes_before_keys(tmp_path: Path) -> None:
    records = rows(tmp_path)
    digests = pa.array([*reversed(records.digests)], pa.binary(32))
    pq.write_table(table().append_column("digest", digests), tmp_path / "f.parquet")
    filled = import_features(PrecomputedConfig(path=str(tmp_path / "f.parquet")), records, tmp_path / "features")
    assert filled.store.read(records.digests).tolist() == VECTORS[::-1].tolist()


def test_a_record_without_a_feature_and_one_that_is_no_number_have_failed_with_the_reason(tmp_path: Path) -> None:
    pq.write_table(table([[1.0, np.nan], [3.0, 4.0], [70000.0, 0.0]]), tmp_path / "f.parquet")
    records = rows(tmp_path, [*KEYS, "d"])
    filled = import_features(
        PrecomputedConfig(path=str(tmp_path / "f.parquet"), name="api"), records, tmp_path / "features"
    )
    reasons = {f.digest: f.outcome.error for f in filled.store.failures(records.digests)}
    by_key = {key: reasons.get(digest) for key, digest in zip(records.keys, records.digests, strict=True)}
    assert by_key == {
        "a": "api gave NaN or infinity",
        "b": None,
        "c": "api gave 7e+04, past the largest float16",
        "d": f"{tmp_path}/f.parquet has no feature of this key",
    }


def test_an_image_that_has_another_key_now_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    config = save(tmp_path, "npy")

    def records(first: str, second: str) -> Records:
        (tmp_path / "images.csv").write_text(f"path,key,label\none.png,{first},x\ntwo.png,{second},x\n")
        return read_records(TableConfig(path=str(tmp_path / "images.csv"), label="label"))

    import_features(config, records("a", "b"), tmp_path / "features")
    with pytest.raises(StaleStoreError, match="its feature is that of the key 'a'"):
        import_features(config, records("b", "a"), tmp_path / "features")


def copies(folder: Path, keys: Sequence[str]) -> Records:
    """Records of one image."""
    for key in keys:
        (folder / key).write_bytes(b"one image")
    (folder / "images.csv").write_text("path,label\n" + "".join(f"{key},x\n" for key in keys))
    return read_records(TableConfig(path=str(folder / "images.csv"), label="label"))


@pytest.mark.parametrize("seen", [(), ("a",), ("b",), ("z",), ("z", "b")])
@pytest.mark.parametrize("keys", [("a", "b"), ("b", "a"), ("z", "b", "a"), ("b", "z"), ("z", "a")])
@pytest.mark.parametrize("differ", [False, True])
def test_an_image_of_several_keys_has_one_feature_whatever_the_order_and_what_was_read_before(
    tmp_path: Path, seen: tuple[str, ...], keys: tuple[str, ...], *, differ: bool
) -> None:
    np.save(tmp_path / "f.npy", np.array([[1, 2], [3 if differ else 1, 2]], np.float32))
    (tmp_path / "f.keys.txt").write_text("a\nb\n")
    config = PrecomputedConfig(path=str(tmp_path / "f.npy"))
    if seen:
        import_features(config, copies(tmp_path, seen), tmp_path / "features")
    records = copies(tmp_path, keys)
    if differ and {"a", "b"} <= {*keys}:
        with pytest.raises(RecordsError, match=r"'a' and 'b' are images of the same bytes .* rows 1 and 2 of the file"):
            import_features(config, records, tmp_path / "features")
    elif differ and {"a", "b"} <= {*keys, *seen}:
        with pytest.raises(StaleStoreError, match="its feature is that of the key"):
            import_features(config, records, tmp_path / "features")
    else:
        store = import_features(config, records, tmp_path / "features").store
        wanted = [3, 2] if differ and "b" in keys else [1, 2]
        assert store.read(records.digests).tolist() == [wanted] * len(keys)


def test_for_images_of_several_keys_the_file_is_read_once_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = save(tmp_path, "parquet")
    pq.write_table(table([[1.0, 2.0], [1.0, 2.0], [5.0, 6.0]]), config.path)

    def find(keys: str) -> int:
        records = copies(tmp_path, keys)
        return len(find_imported(config, records, tmp_path / "features", dtype="float16", remedy="Extract."))

    def refuse(_: PrecomputedConfig) -> precomputed.Vectors:
        raise AssertionError("the file was read")

    import_features(config, copies(tmp_path, "ab"), tmp_path / "features")
    with monkeypatch.context() as patch:
        patch.setattr(precomputed, "read_vectors", refuse)
        assert find("ab") == 1
        assert import_features(config, copies(tmp_path, "ab"), tmp_path / "features").computed == 0
        with pytest.raises(AssertionError, match="was read"):
            find("abc")
    with pytest.raises(RecordsError, match="'a' and 'c' are images of the same bytes"):
        find("abc")


def test_a_row_that_failed_for_lack_of_a_key_is_read_once_the_key_is_corrected(tmp_path: Path) -> None:
    config = save(tmp_path, "npy")
    (tmp_path / "one.png").write_bytes(b"one")

    def read(key: str) -> tuple[int, list[bool]]:
        (tmp_path / "images.csv").write_text(f"path,key,label\none.png,{key},x\n")
        records = read_records(TableConfig(path=str(tmp_path / "images.csv"), label="label"))
        filled = import_features(config, records, tmp_path / "features")
        return filled.computed, filled.store.usable(records.digests).tolist()

    assert [read(key) for key in ("A", "A", "a", "a")] == [(1, [False]), (0, [False]), (1, [True]), (0, [True])]


def test_what_else_failed_is_read_again_where_that_is_asked_for(tmp_path: Path) -> None:
    pq.write_table(table([[1.0, np.nan], [3.0, 4.0], [5.0, 6.0]]), tmp_path / "f.parquet")
    config, records = PrecomputedConfig(path=str(tmp_path / "f.parquet")), rows(tmp_path)
    counts = [
        import_features(config, records, tmp_path / "features", retry_failed=again).computed
        for again in (False, False, True)
    ]
    assert counts == [3, 0, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (table(keys=["a", "b", "a"]), "rows 1 and 3 have the same key 'a'"),
        (table(keys=["a", None, "c"]), "row 2: the key is empty"),
        (table([[1.0, 2.0], [3.0], [5.0, 6.0]]), "row 2: the feature has 1 numbers, and that of row 1 2"),
        (table([[1.0, 2.0], None, [5.0, 6.0]]), "row 2: the feature has no numbers"),
        (table([None, [3.0, 4.0], [5.0, 6.0]]), "row 1: the feature has no numbers, and others have"),
        (table([[1.0, 2.0], [3.0, None], [5.0, 6.0]]), "row 2: a number of the feature is missing"),
        (table([[], [], []]), "must hold"),
        (table(["x", "y", "z"]), "must hold lists of numbers"),
        (table().rename_columns(["key", "embedding"]), "no column 'vector'; it has key, embedding"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused_by_row(tmp_path: Path, given: pa.Table, message: str) -> None:
    pq.write_table(given, tmp_path / "f.parquet")
    with pytest.raises(RecordsError, match=message):
        import_features(PrecomputedConfig(path=str(tmp_path / "f.parquet")), rows(tmp_path), tmp_path / "features")


@pytest.mark.parametrize(
    ("array", "keys", "message"),
    [
        (VECTORS, "a\nb\n", "3 features and 2 keys"),
        (VECTORS[0], "a\nb\n", r"\(M, D\); got \(2,\)"),
        (VECTORS, None, "features.keys.txt"),
        (np.array([["x"]] * 3), "a\nb\nc", "must hold numbers"),
        (np.array([[None]] * 3, object), "a\nb\nc", "cannot be read"),
    ],
)
def test_an_array_that_cannot_be_right_is_refused(
    tmp_path: Path, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], keys: str | None, message: str
) -> None:
    np.save(tmp_path / "features.npy", array, allow_pickle=True)
    if keys is not None:
        (tmp_path / "features.keys.txt").write_text(keys)
    with pytest.raises(RecordsError, match=message):
        import_features(PrecomputedConfig(path=str(tmp_path / "features.npy")), rows(tmp_path), tmp_path / "features")


def test_a_record_without_an_image_has_a_digest_of_its_key_alone(tmp_path: Path) -> None:
    first, second = rows(tmp_path), rows(tmp_path, ["b", "a"])
    assert (
        dict(zip(first.keys, first.digests, strict=True))["a"]
        == dict(zip(second.keys, second.digests, strict=True))["a"]
    )
    assert digest_bytes(b"a") not in first.digests
    assert len(set(first.digests)) == 3
    assert isinstance(import_features(save(tmp_path, "npy"), first, tmp_path / "f").store, FeatureStore)
