"""A Ray cluster of this machine for tests: on a token of its own, which needs no home directory."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def local_cluster(cpus: int) -> Iterator[str]:
    """The address of a cluster that has, by its own account, so many processors; this process has joined it."""
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_TOKEN", os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32))
        ray.init(
            address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
        try:
            yield ray.get_runtime_context().gcs_address
        finally:
            ray.shutdown()
