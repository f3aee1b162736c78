"""The actors of a Ray cluster: the bytes of one process, whatever crashes or is killed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.extraction import Progress, extract, extract_all
from stages.extraction.ray_executor import RayExecutor
from stages.ray_cluster import RayCluster
from tests.pictures import draw_folder
from tests.toys.extraction import records_of, toy_backbone
from tests.toys.stores import contents

ray = pytest.importorskip("ray", reason="the extra ray is not installed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of this machine that has, by its own account, three processors."""
    joined = ray.init(
        address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    try:
        yield joined.address_info["gcs_address"]
    finally:
        ray.shutdown()


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
