"""The actors of a Ray cluster: the bytes of one process, whatever crashes or is killed."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.ray_kills import processes
from cache import FeatureStore, verify
from cache.errors import ClusterError, CrashedError
from stages import ray_cluster
from stages.extraction import Progress, extract, extract_all
from stages.extraction.ray_executor import RayExecutor, _Driver, _Seat, _Task
from stages.ray_cluster import RayCluster, versions
from tests.clusters import local_cluster
from tests.forks import Forks
from tests.pictures import draw_folder
from tests.toys.extraction import crashing, records_of, toy_backbone
from tests.toys.stores import contents


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of this machine that has, by its own account, three processors."""
    with local_cluster(3) as address:
        yield address


def test_actors_fill_a_store_with_the_bytes_of_one_process(cluster: str, tmp_path: Path) -> None:
    records = records_of(draw_folder(tmp_path / "images", {"a": 9, "b": 8, "c": 6}))
    alone = extract(records, toy_backbone(), tmp_path / "alone", batch_size=3, chunk_rows=4)
    seen: list[Progress] = []
    (filled,) = extract_all(
        records,
        [toy_backbone()],
        tmp_path / "many",
        batch_size=3,
        chunk_rows=4,
        executor=RayExecutor(RayCluster(cpus=1)),
        on_progress=seen.append,
    )
    assert contents(filled.store.path) == contents(alone.path)
    assert seen[-1][:3] == (23, 23, 0)
    assert sum(pace.images for pace in seen[-1].clock.workers.values()) == 23


def test_a_chunk_at_which_three_processes_crash_is_set_aside_with_its_images_and_the_rest_is_done(
    cluster: str, tmp_path: Path
) -> None:
    images = draw_folder(tmp_path / "images", {"a": 5, "b": 7})
    Image.new("RGB", (9, 9), "white").save(images / "a/white.png")
    backbone = replace(toy_backbone(), forward=crashing)
    executor = RayExecutor(RayCluster(cpus=1))
    with pytest.raises(CrashedError) as refused:
        extract_all(records_of(images), [backbone], tmp_path / "f", batch_size=2, chunk_rows=4, executor=executor)
    message = str(refused.value)
    assert "chunk 1 of " in message
    assert "3 workers crashed with it in hand (exit status 3;" in message
    assert len({*re.findall(r"[\w.-]+:\d+(?=[,)])", message)}) == 3  # different ones
    assert str(images / "a/white.png") in message
    assert "white: out of range" in message
    (path,) = (tmp_path / "f").glob("toy-????????")
    assert sorted(FeatureStore.at(path).chunks()) == [0, 2, 3]
    (images / "a/white.png").unlink()
    store = extract(records_of(images), toy_backbone(), tmp_path / "f")
    assert verify(store) == []
    assert len(store) == 12


def test_a_chunk_at_which_a_process_crashed_is_for_another_machine_while_there_is_one() -> None:
    driver = object.__new__(_Driver)
    task, others = _Task(0, (), {}, crashed_on=["a:1"], alone=True), [_Task(1, (), {}), _Task(2, (), {})]
    here_again, elsewhere = _Seat(None, [], "a:2"), _Seat(None, [], "b:1")
    driver._seats, driver._again, driver._tasks = [here_again, elsewhere], deque([task]), iter(others)
    assert driver._next(here_again) is others[0]
    elsewhere.running[2] = others[1]
    assert driver._next(elsewhere) is None  # until it has nothing else in hand
    elsewhere.running.clear()
    assert driver._next(elsewhere) is task
    driver._seats, driver._again = [here_again], deque([task])
    assert driver._next(here_again) is task


def test_workers_and_a_driver_that_are_killed_are_followed_by_others_to_the_same_bytes(
    cluster: str, tmp_path: Path
) -> None:
    images = draw_folder(tmp_path / "images", {"a": 20, "b": 20})
    alone = extract(records_of(images), toy_backbone(), tmp_path / "alone", batch_size=2, chunk_rows=4)
    with Forks("tests.toys.extraction:extract_on_ray") as forks:
        driver = forks.start(str(images), str(tmp_path / "f"), cluster)
        assert forks.line() == "ready"
        for kind, commits in (("worker", 1), ("actor", 2), ("driver", 4)):
            while len(list(tmp_path.glob("f/toy-????????/rows/*.parquet"))) < commits:
                time.sleep(0.02)
            os.kill(driver if kind == "driver" else processes(kind)[0], signal.SIGKILL)
        assert forks.status() == -signal.SIGKILL
    executor = RayExecutor(RayCluster(cpus=1))
    (filled,) = extract_all(records_of(images), [toy_backbone()], tmp_path / "f", executor=executor)
    assert 0 < filled.computed < 40
    assert contents(filled.store.path) == contents(alone.path)


def test_workers_of_other_versions_are_refused_and_each_is_named(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "versions", lambda: {**versions(), "torch": "1.0", "permafrost": "code 0"})
    records = records_of(draw_folder(tmp_path / "images", {"a": 2}))
    with pytest.raises(ClusterError, match=r"\(permafrost: code \w{8} there, code 0 .*; torch: \S+ there, 1.0 in this"):
        extract_all(records, [toy_backbone()], tmp_path / "f", executor=RayExecutor(RayCluster(cpus=1)))


def test_more_processors_than_a_machine_has_are_refused(cluster: str, tmp_path: Path) -> None:
    records = records_of(draw_folder(tmp_path / "images", {"a": 2}))
    with pytest.raises(ClusterError, match="no machine of the Ray cluster has 64 processors"):
        extract_all(records, [toy_backbone()], tmp_path / "f", executor=RayExecutor(RayCluster(cpus=64)))


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:9", "no Ray cluster answers at 127.0.0.1:9: Connection refused"),
        ("ray://head:10001", "HOST:PORT"),
        ("head", "HOST:PORT"),
    ],
)
def test_an_address_that_does_not_answer_is_one_message(address: str, reason: str) -> None:
    with pytest.raises(ClusterError, match=re.escape(reason)):
        RayCluster(address).check()


def test_a_server_that_is_no_ray_cluster_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        pool.submit(answer)
        with pytest.raises(ClusterError, match="what listens there is no Ray cluster"):
            RayCluster(f"127.0.0.1:{server.getsockname()[1]}").check()
