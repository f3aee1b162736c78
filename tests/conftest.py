import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # in the processes that tests start, too

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.object_servers import Quirks, localbucket

# On a busy machine drawing an example takes long: no test depends on the clock.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_runtest_setup() -> None:
    """The steps of these tests are small: threads would spend their time waiting. An extraction leaves several."""
    torch.set_num_threads(1)


@pytest.fixture
def quirks() -> Quirks:
    """How the server of ``bucket`` differs from a good one: not at all, until a test says so."""
    return Quirks()


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quirks: Quirks) -> Iterator[str]:
    """The address of a bucket on this machine; its objects are files below ``server``."""
    with localbucket(tmp_path / "server", monkeypatch, quirks) as url:
        yield url


@pytest.fixture(scope="session")
def photographs() -> Path:
    """The folder of photographs that some tests want, named by PERMAFROST_DATA."""
    folder = os.environ.get("PERMAFROST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PERMAFROST_DATA names no folder of photographs")
    return Path(folder)
