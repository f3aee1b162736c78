"""A flipped bit is an error, never a feature; and stores of 0.1.0, which say less about their bytes, still open."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from cache import FeatureStore, Identity, Provenance, RowOutcome, StoreWriter, digest_bytes, verify
from cache.errors import DamagedStoreError, StoreError
from tests.toys.stores import PROVENANCE, contents, fill, names, open_store, value_of

OLD = Path(__file__).with_name("store_0_1_0") / "toy-c1be2109"
OLD_DIGESTS = [digest_bytes(bytes([number])) for number in range(8)]


@pytest.mark.parametrize("offset", [0, 17, 47, 49])
def test_a_flipped_bit_of_a_chunk_is_an_error_when_it_is_read(tmp_path: Path, offset: int) -> None:
    store = open_store(tmp_path)
    fill(store, names(*range(9)))
    path = store.path / "features/c/1/0"
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        DamagedStoreError,
        match=r"features/c/1/0 does not hold.*wrong crc32c\. Delete .*rows/1\.parquet, and run `permafrost extract`",
    ):
        store.read(names(*range(9)))
    assert store.read(names(0, 8)).shape == (2, store.dim)  # of other chunks
    (store.path / "rows/1.parquet").unlink()
    store.reload()
    fill(store, names(*range(9)))
    assert store.read(names(5))[0].tolist() == value_of(names(5)[0]).astype(np.float16).tolist()


def test_data_of_another_chunk_with_a_right_checksum_are_an_error(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, names(*range(8)))
    shutil.copy(store.path / "features/c/0/0", store.path / "features/c/1/0")
    with pytest.raises(DamagedStoreError, match="does not hold the bytes that were committed"):
        store.read(names(5))


def read_all(path: Path) -> object:
    """Everything that is read of a store: through its own reader, and through Zarr."""
    store = FeatureStore.at(path)
    group = zarr.open_group(path, mode="r")
    array = group["features"]
    assert isinstance(array, zarr.Array)
    digests = store.digests()
    return (
        store.fingerprint,
        [rows.to_pylist() for rows in store.chunks().values()],
        [store.provenance(number) for number in store.chunks()],
        store.read(digests).tolist(),
        store.checksums(digests).tolist(),
        (dict(group.attrs), array.metadata.to_dict(), np.asarray(array[:]).astype(str).tolist()),
    )


@pytest.mark.parametrize("key", ["rows/0.parquet", "identity.json", "features/zarr.json", "zarr.json"])
def test_a_flipped_bit_at_any_byte_of_what_describes_a_store_is_noticed_or_changes_nothing(
    tmp_path: Path, key: str
) -> None:
    store = open_store(tmp_path)
    fill(store, names(*range(4)), frozenset(names(2)))
    path, wanted = store.path / key, read_all(store.path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            noticed = bool(verify(FeatureStore.at(store.path)))
        except StoreError:
            continue
        assert noticed or read_all(store.path) == wanted, place


def test_a_store_of_0_1_0_opens_as_it_is_and_is_extended(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / OLD.name)
    store = FeatureStore.open(tmp_path, "toy", Identity({"backbone": "toy"}), dim=4, provenance=Provenance("cpu", {}))
    before = contents(store.path)
    assert before == contents(OLD)  # opening writes nothing
    assert (store.chunk_rows, len(store), store.provenance(0)) == (4, 5, Provenance("cpu", {"numpy": "2.0"}, 32))
    assert store.read(OLD_DIGESTS[4:6]).tolist() == [[4, 4.25, 4.5, 4.75], [5, 5.25, 5.5, 5.75]]
    assert [failure.outcome.error for failure in store.failures()] == ["no image"]
    assert store.missing(OLD_DIGESTS) == OLD_DIGESTS[6:]
    with StoreWriter(store) as writer:
        (chunk,) = writer.plan(OLD_DIGESTS).chunks
        assert tuple(chunk) == (1, OLD_DIGESTS[6:], 2)  # behind its two rows
        writer.commit(chunk, np.full((2, 4), 9.0), [RowOutcome()] * 2, PROVENANCE)
    assert store.read(OLD_DIGESTS[5:7]).tolist() == [[5, 5.25, 5.5, 5.75], [9, 9, 9, 9]]
    after = contents(store.path)
    changed = {key for key in after if after[key] != before.get(key)}
    assert changed == {"features/c/1/0", "rows/1.parquet", "features/zarr.json"}
    assert verify(store) == []


def test_a_flipped_bit_of_a_0_1_0_chunk_is_an_error_too(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / OLD.name)
    path = tmp_path / OLD.name / "features/c/1/0"
    path.write_bytes(b"\1" + path.read_bytes()[1:])
    with pytest.raises(DamagedStoreError, match="wrong crc32c"):
        FeatureStore.at(tmp_path / OLD.name).read(OLD_DIGESTS[4:6])
