import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # the steps of these tests are small: threads would spend their time waiting


@pytest.fixture(scope="session")
def photographs() -> Path:
    """The folder of photographs that some tests want, named by PERMAFROST_DATA."""
    folder = os.environ.get("PERMAFROST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PERMAFROST_DATA names no folder of photographs")
    return Path(folder)
