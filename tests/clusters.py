"""A Ray cluster of this machine for tests: on a token of its own, which needs no home directory."""

from __future__ import annotations

import gc
import logging
import os
import resource
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_FILES = 1024


@contextmanager
def local_cluster(cpus: int) -> Iterator[str]:
    """The address of a cluster that has, by its own account, so many processors; this process has joined it."""
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < _FILES:
        pytest.skip(f"the processes of a Ray cluster want more open files, {_FILES:,} at least")
    if not os.access(os.environ.get("TMPDIR", "/tmp"), os.W_OK):
        pytest.skip("Ray writes into the folder of temporary files")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # for good: Ray reads it once a process
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        with warnings.catch_warnings():  # on a busy machine some of its processes end after Ray has let go of them
            warnings.simplefilter("ignore", ResourceWarning)
            ray.shutdown()
            gc.collect()
