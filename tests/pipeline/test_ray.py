"""Commands with ``--executor ray``: what they compute on this machine, they compute on a cluster."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from cache.errors import ClusterError
from stages import ray_cluster
from stages.ray_cluster import RayCluster
from tests.clusters import local_cluster
from tests.toys.stores import contents
from tests.typed import RUN, finished, permafrost

TRIALS = """
[repeat]
seeds = [0, 1]
[sweep]
folds = 2
[sweep.over]
"training.epochs" = [1, 2]
"""


class _Deadly:
    """Work at which every worker ends as it receives it."""

    def __reduce__(self) -> tuple[Callable[[int], NoReturn], tuple[int]]:
        return os._exit, (3,)

    def __call__(self, thing: int) -> int:
        return thing


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run, beside a cluster of two workers that this process has joined."""
    folder = finished(tmp_path_factory.mktemp("run"), RUN + TRIALS)
    with local_cluster(2):
        yield folder


def test_extract_on_a_cluster_gives_the_bytes_of_one_process_and_says_what_each_worker_did(
    run: Path, tmp_path: Path
) -> None:
    shutil.copytree(run / "images", tmp_path / "images")
    shutil.copy(run / "run.toml", tmp_path)
    done = permafrost("extract", "run.toml", "--executor", "ray", "--cpus", "1", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["computed"] == 72
    assert re.search(r"worker \S+:\d+: 72 images, \S+ images/s, waits for ", done.stderr)
    one, other = (contents(next(folder.glob("artifacts/features/test_resnet-*"))) for folder in (run, tmp_path))
    assert one == other


@pytest.mark.slow
@pytest.mark.parametrize(("command", "options"), [("table", ["--workers", "1"]), ("sweep", [])])
def test_trials_on_a_cluster_have_the_numbers_of_this_machine(run: Path, command: str, options: list[str]) -> None:
    alone = permafrost(command, "run.toml", *options, "--json", cwd=run)
    assert alone.returncode == 0, alone.stderr
    shutil.rmtree(run / f"artifacts/{command}s")
    there = permafrost(command, "run.toml", "--executor", "ray", "--json", cwd=run)
    assert there.returncode == 0, there.stderr
    lines, others = ([json.loads(line) for line in out.splitlines()] for out in (alone.stdout, there.stdout))
    for line in (*lines, *others):
        line.pop("seconds", None)
    assert lines == others


def test_the_options_of_a_cluster_want_one(run: Path) -> None:
    refused = permafrost("extract", "run.toml", "--address", "head:6379", cwd=run)
    assert refused.returncode == 2
    assert "add --executor ray" in refused.stderr


def test_an_address_that_does_not_answer_ends_the_command_before_anything_is_read(tmp_path: Path) -> None:
    refused = permafrost("table", "none.toml", "--executor", "ray", "--address", "127.0.0.1:9", cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.strip().startswith("error: no Ray cluster answers at 127.0.0.1:9: ")


@pytest.mark.usefixtures("run")
def test_workers_that_never_begin_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "_BARREN", 2)
    with pytest.raises(ClusterError, match="2 workers ended before they began, the last: "):
        list(ray_cluster.spread(RayCluster(cpus=1), _Deadly(), {"a": 1}))
