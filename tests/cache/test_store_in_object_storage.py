import json
import multiprocessing
import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cache import FeatureStore, RowOutcome, StoreWriter, compact, verify
from cache.errors import DamagedStoreError, SettingsError, StaleStoreError, StoreBusyError
from cache.fingerprint import Identity
from cache.object_storage import ObjectStorage
from cache.storage import storage_of
from tests.object_servers import BUCKET, Quirks
from tests.toys.stores import DIM, IDENTITY, PROVENANCE, contents, features_of, fill, names, value_of

_SPAWN = multiprocessing.get_context("spawn")


def open_at(where: str, *, identity: Identity = IDENTITY, chunk_rows: int = 64) -> FeatureStore:
    return FeatureStore.open(where, "toy", identity, dim=DIM, provenance=PROVENANCE, chunk_rows=chunk_rows)


def objects(tmp_path: Path, folder: str) -> dict[str, bytes]:
    return contents(tmp_path / "server" / BUCKET / folder)


def values(digests: list[bytes]) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
    return np.stack([value_of(digest) for digest in digests]).astype(np.float16)


def test_its_bytes_are_those_of_a_local_store(bucket: str, tmp_path: Path) -> None:
    local, far = open_at(str(tmp_path / "local"), chunk_rows=4), open_at(f"{bucket}/shop", chunk_rows=4)
    for store in (local, far):
        fill(store, names(*range(6)), bad=frozenset(names(2)))
        fill(store, names(*range(11)), bad=frozenset(names(2)))  # the second chunk grows
    assert objects(tmp_path, f"shop/{far.folder}") == contents(local.path)
    digests = names(10, 0, 3, 3, 7)
    np.testing.assert_array_equal(FeatureStore.at(far.address).read(digests), values(digests))
    assert verify(far) == []
    assert far.size_bytes() == local.size_bytes()
    with pytest.raises(SettingsError, match="no folder of a local disk"):
        far.path  # noqa: B018
    keep = set(names(*range(0, 11, 2)))
    assert compact(far, keep) == compact(local, keep)
    assert objects(tmp_path, f"shop/{far.folder}") == contents(local.path)


def test_zarr_opens_it_where_it_lies(bucket: str) -> None:
    import zarr
    from obstore.store import from_url
    from zarr.storage import ObjectStore

    store = open_at(f"{bucket}/shop")
    fill(store, names(*range(70)))
    place = ObjectStore(from_url(store.address, client_options={"allow_http": True}), read_only=True)
    group = zarr.open_group(place, mode="r")
    array = group["features"]
    assert isinstance(array, zarr.Array)
    np.testing.assert_array_equal(np.asarray(array[:]), values(names(*range(70))))
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    np.testing.assert_array_equal(xarray.open_zarr(place)["features"].values, np.asarray(array[:]))


def test_few_rows_are_read_by_range_and_many_through_a_verified_copy(
    bucket: str, quirks: Quirks, tmp_path: Path
) -> None:
    store = open_at(f"{bucket}/shop")
    digests = names(*range(128))
    fill(store, digests)
    copies = tmp_path / "cache/copies"

    def chunks_read() -> int:
        count = sum(method == "GET" and "/features/c/" in path for method, path in quirks.requests)
        quirks.requests.clear()
        return count

    chunks_read()
    np.testing.assert_array_equal(store.read(digests[5:7]), values(digests[5:7]))
    assert (chunks_read(), copies.exists()) == (1, False)
    np.testing.assert_array_equal(store.read(digests), values(digests))
    assert (chunks_read(), len([*copies.iterdir()])) == (2, 2)
    np.testing.assert_array_equal(store.read(digests), values(digests))
    np.testing.assert_array_equal(store.read(digests[5:7]), values(digests[5:7]))
    assert chunks_read() == 0
    for copy in copies.iterdir():
        copy.write_bytes(b"\1" + copy.read_bytes()[1:])
    np.testing.assert_array_equal(store.read(digests), values(digests))  # a damaged copy is made anew
    assert chunks_read() == 2


@pytest.mark.parametrize(("free_bytes", "copies"), [(20_000_000_000, 2), (1_000_000_000, 0)])
def test_copies_are_made_while_a_gigabyte_stays_free(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_bytes: int, copies: int
) -> None:
    disk = SimpleNamespace(total=252_000_000_000, used=0, free=free_bytes)  # a full disk can't be had for real
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk)
    store = open_at(f"{bucket}/shop")
    digests = names(*range(128))
    fill(store, digests)
    np.testing.assert_array_equal(store.read(digests), values(digests))
    assert len([*(tmp_path / "cache/copies").iterdir()]) == copies


def test_a_flipped_bit_is_an_error_however_it_is_read(bucket: str, tmp_path: Path) -> None:
    store = open_at(f"{bucket}/shop")
    digests = names(*range(64))
    fill(store, digests)
    path = tmp_path / "server" / BUCKET / "shop" / store.folder / "features/c/0/0"
    content = bytearray(path.read_bytes())
    content[3] ^= 1  # in the first row
    path.write_bytes(content)
    for wanted in (digests[:1], digests):
        with pytest.raises(DamagedStoreError, match=r"c/0/0.*wrong crc32c"):
            store.read(wanted)
    np.testing.assert_array_equal(store.read(digests[1:2]), values(digests[1:2]))
    assert any("wrong crc32c" in problem for problem in verify(store))


def test_a_store_of_another_identity_is_named(bucket: str) -> None:
    open_at(f"{bucket}/shop")
    with pytest.raises(StaleStoreError, match=r"preprocess\.size"):
        FeatureStore.find(
            f"{bucket}/shop", "toy", Identity({"backbone": "toy", "preprocess": {"size": 9}}), dim=DIM, remedy=""
        )


# Who may write


def test_a_second_driver_is_refused_by_name_and_goes_on_when_the_first_is_done(bucket: str) -> None:
    first, second = open_at(f"{bucket}/shop"), open_at(f"{bucket}/shop")
    with StoreWriter(first) as writer:
        (chunk,) = writer.plan(names(1, 2)).chunks
        with pytest.raises(StoreBusyError, match=f"written by process {os.getpid()} on"), StoreWriter(second):
            pass
        writer.commit(chunk, features_of(chunk), [RowOutcome()] * 2, PROVENANCE)
    fill(second, names(1, 2, 3))
    assert second.digests() == names(1, 2, 3)
    assert storage_of(f"{bucket}/shop").list(f"{second.folder}.lock/") == [
        f"{second.folder}.lock/0000000{number}" for number in (1, 2)
    ]


def drive_for_ever(address: str, pipe: Connection) -> None:
    with StoreWriter(FeatureStore.at(address)):
        pipe.send("driving")
        signal.pause()


def test_a_killed_driver_holds_nobody_up(bucket: str) -> None:
    store = open_at(f"{bucket}/shop")
    receiver, sender = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(target=drive_for_ever, args=(store.address, sender))
    process.start()
    receiver.recv()
    with pytest.raises(StoreBusyError, match=f"process {process.pid} on"):
        fill(store, names(1))
    process.kill()
    os.waitid(os.P_PID, process.pid or 0, os.WEXITED | os.WNOWAIT)
    fill(store, names(1))  # though it is not reaped yet
    process.join()
    assert store.digests() == names(1)


def test_the_lease_of_another_machine_runs_out_by_the_clock_of_the_server(bucket: str, tmp_path: Path) -> None:
    store = open_at(f"{bucket}/shop")
    lock = ObjectStorage(f"{store.address}.lock")
    note = {"who": "process 7 on far-away", "machine": "another", "process": 7, "started": "1", "state": "held"}
    lock.put("00000004", json.dumps(note).encode())
    with pytest.raises(StoreBusyError, match="process 7 on far-away"):
        fill(store, names(1))
    path = tmp_path / "server" / BUCKET / "shop" / f"{store.folder}.lock/00000004"
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 61))
    fill(store, names(1))
    assert json.loads(lock.read("00000005"))["state"] == "free"


def test_a_driver_that_could_not_renew_its_lease_commits_nothing(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_at(f"{bucket}/shop")
    with StoreWriter(store) as writer:
        (chunk,) = writer.plan(names(1, 2)).chunks
        monkeypatch.setattr("cache.lock._SAFE_FOR", -1.0)
        with pytest.raises(StoreBusyError, match="another process may write"):
            StoreWriter(store).commit(chunk, features_of(chunk), [RowOutcome()] * 2, PROVENANCE)
    assert store.storage.list("rows/") == []


def test_a_listing_that_lags_loses_and_doubles_no_row(bucket: str, quirks: Quirks, tmp_path: Path) -> None:
    store, whole = open_at(f"{bucket}/shop", chunk_rows=4), open_at(f"{bucket}/whole", chunk_rows=4)
    for each in (store, whole):
        fill(each, names(*range(8)))
    quirks.not_listed = {"rows/1.parquet", ".lock/00000001"}
    fill(FeatureStore.at(store.address), names(*range(8)))  # what is not listed is computed again, and is there
    quirks.not_listed = set()
    fill(store, names(*range(8)))
    assert store.digests() == names(*range(8))
    assert objects(tmp_path, f"shop/{store.folder}") == objects(tmp_path, f"whole/{whole.folder}")


def test_a_driver_that_waits_goes_on_when_the_first_is_done(bucket: str) -> None:
    first, second = open_at(f"{bucket}/shop"), open_at(f"{bucket}/shop")
    driving, done = threading.Event(), threading.Event()

    def wait_and_fill() -> None:
        driving.wait()
        with StoreWriter(second, wait=True) as writer:
            assert done.is_set()
            (chunk,) = writer.plan(names(1, 2, 3)).chunks
            writer.commit(chunk, features_of(chunk), [RowOutcome()] * len(chunk.digests), PROVENANCE)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait_and_fill)
        with StoreWriter(first) as writer:
            driving.set()
            (chunk,) = writer.plan(names(1, 2)).chunks
            writer.commit(chunk, features_of(chunk), [RowOutcome()] * 2, PROVENANCE)
            done.set()
        waiting.result()
    assert second.digests() == names(1, 2, 3)


def test_puts_that_are_done_though_the_server_says_it_is_busy_commit_once(
    bucket: str, quirks: Quirks, tmp_path: Path
) -> None:
    local, far = open_at(str(tmp_path / "local"), chunk_rows=4), open_at(f"{bucket}/shop", chunk_rows=4)
    quirks.busy_after = {("PUT", name): 1 for name in ("c/0/0", "rows/0.parquet", "c/1/0", "plan.parquet")}
    quirks.busy_before = {("PUT", "rows/1.parquet"): 2, ("GET", "plan.parquet"): 1}
    for store in (local, far):
        fill(store, names(*range(6)))
    assert not any([*quirks.busy_after.values(), *quirks.busy_before.values()])
    assert objects(tmp_path, f"shop/{far.folder}") == contents(local.path)
