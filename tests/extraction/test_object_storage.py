"""Extraction into object storage: the servers run on loopback, and each answer takes a while."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache import FeatureStore, verify
from stages.extraction import extract, plan_extraction
from tests.forks import Forks
from tests.object_servers import BUCKET, Quirks, localbucket
from tests.pictures import draw_folder
from tests.toys.extraction import never, records_of, toy_backbone
from tests.toys.stores import contents


def test_killed_at_any_instant_it_ends_with_the_bytes_of_a_local_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = draw_folder(tmp_path / "images", dict.fromkeys("abc", 8))
    (images / "c/bad.png").write_bytes(b"no image")
    rng = np.random.default_rng(0)
    kills = 0
    with (
        localbucket(tmp_path / "server", monkeypatch, Quirks(latency=0.005)) as bucket,
        Forks("tests.toys.extraction:extract_slowly") as forks,
    ):

        def start(where: str) -> int:
            process = forks.start(str(images), where)
            assert forks.line() == "ready"
            return process

        start(str(tmp_path / "local"))
        assert forks.status() == 0
        while kills < 4:
            process = start(f"{bucket}/shop")
            if not forks.prints_within(float(rng.uniform(0.1, 0.5))):
                os.kill(process, signal.SIGKILL)
            status = forks.status()
            assert status in (0, -signal.SIGKILL)
            if status == 0:
                break
            kills += 1
        start(f"{bucket}/shop")
        assert forks.status() == 0
        (local,) = (tmp_path / "local").glob("toy-????????")
        far = FeatureStore.at(f"{bucket}/shop/{local.name}")
        assert verify(far) == []
        records = records_of(images)
        assert extract(records, toy_backbone(), f"{bucket}/shop").digests() == far.digests()
        assert plan_extraction(records, [replace(toy_backbone(), forward=never)], f"{bucket}/shop").images == 0
    assert kills >= 2
    assert contents(tmp_path / "server" / BUCKET / "shop" / local.name) == contents(local)
