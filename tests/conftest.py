import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # in the processes that tests start, too

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# On a busy machine drawing an example takes long: no test depends on the clock.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_runtest_setup() -> None:
    """The steps of these tests are small: threads would spend their time waiting. An extraction leaves several."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def photographs() -> Path:
    """The folder of photographs that some tests want, named by PERMAFROST_DATA."""
    folder = os.environ.get("PERMAFROST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PERMAFROST_DATA names no folder of photographs")
    return Path(folder)
