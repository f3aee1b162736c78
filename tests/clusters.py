"""A Ray cluster of this machine for tests: on a token of its own, which needs no home directory."""

from __future__ import annotations

import gc
import logging
import os
import resource
import secrets
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_FILES = 1024
_ATTEMPTS = 3


@contextmanager
def local_cluster(cpus: int) -> Iterator[str]:
    """The address of a cluster that has, by its own account, so many processors; this process has joined it."""
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < _FILES:
        pytest.skip(f"the processes of a Ray cluster want more open files, {_FILES:,} at least")
    if not os.access(os.environ.get("TMPDIR", "/tmp"), os.W_OK):
        pytest.skip("Ray writes into the folder of temporary files")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # for good: Ray reads it once a process
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _begin(cpus)
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        with warnings.catch_warnings():  # on a busy machine some of its processes end after Ray has let go of them
            warnings.simplefilter("ignore", ResourceWarning)
            ray.shutdown()
            gc.collect()


def _begin(cpus: int) -> None:
    """Start the cluster, again where it did not begin in time, which no setting changes: its agents have 15 s."""
    import ray

    for _ in range(_ATTEMPTS):
        before = _children()
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
        else:
            return
        for child in _children() - before:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
    pytest.skip(f"the machine is too busy for Ray: {_ATTEMPTS} times its agents did not begin within 15 s")


def _children() -> set[int]:
    """The processes that this one has started, and that have not ended."""
    texts = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    return {int(number) for text in texts for number in text.split()}
