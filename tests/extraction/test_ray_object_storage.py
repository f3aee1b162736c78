"""Workers of a Ray cluster that fill a store in a bucket: the bytes of one process in a folder."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache import verify
from cache.errors import ClusterError
from stages.extraction import Progress, extract, extract_all
from stages.extraction.ray_executor import RayExecutor
from stages.ray_cluster import RayCluster
from tests.clusters import local_cluster
from tests.object_servers import BUCKET, environment, localbucket
from tests.pictures import draw_folder
from tests.toys.extraction import records_of, toy_backbone
from tests.toys.stores import contents


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where the workers of a cluster of two processors look for the bucket; nothing listens there yet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = int(free.getsockname()[1])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(number).items():
            patch.setenv(name, value)
        patch.setenv("PERMAFROST_CACHE", str(tmp_path_factory.mktemp("workers")))
        with local_cluster(2):
            yield number


def test_two_workers_fill_a_store_in_a_bucket_with_the_bytes_of_one_process(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = records_of(draw_folder(tmp_path / "images", {"a": 9, "b": 8, "c": 6}))
    alone = extract(records, toy_backbone(), tmp_path / "alone", batch_size=3, chunk_rows=4)
    seen: list[Progress] = []
    with localbucket(tmp_path / "server", monkeypatch, port=port) as bucket:
        (filled,) = extract_all(
            records,
            [toy_backbone()],
            f"{bucket}/shop",
            batch_size=3,
            chunk_rows=4,
            executor=RayExecutor(RayCluster(cpus=1)),
            on_progress=seen.append,
        )
        assert contents(tmp_path / "server" / BUCKET / "shop" / filled.store.folder) == contents(alone.path)
        assert verify(filled.store) == []
    assert sum(pace.images for pace in seen[-1].clock.workers.values()) == 23


def test_workers_that_do_not_reach_the_bucket_are_one_message(port: int, bucket: str, tmp_path: Path) -> None:
    records, executor = records_of(draw_folder(tmp_path / "images", {"a": 3})), RayExecutor(RayCluster(cpus=1))
    with pytest.raises(ClusterError, match=f"a worker cannot begin: .*{bucket} cannot be used: it does not answer"):
        extract_all(records, [toy_backbone()], f"{bucket}/shop", executor=executor)
