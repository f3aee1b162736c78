"""A Ray cluster: joined for as long as there is work, and refused where it does not answer or its versions differ."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cache.errors import ClusterError, MissingExtraError

_ANSWER_SECONDS = 5.0
_LIBRARIES = (
    "faiss-cpu",
    "numpy",
    "open_clip_torch",
    "pillow",
    "ray",
    "scikit-learn",
    "scipy",
    "timm",
    "torch",
    "zarr",
)
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # what a client of gRPC says first
_SETTINGS = 4  # the kind of the frame that a server of gRPC answers with


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster, and the share of a machine that each worker on it has.

    Args:
        address: ``HOST:PORT`` as ``ray start --head`` prints it, or ``auto`` for the cluster that runs on this machine;
            by default ``RAY_ADDRESS`` of the environment, or else a cluster of this machine that ends with its use.
        cpus: processors of each worker.

    >>> RayCluster(cpus=2)
    RayCluster(address=None, cpus=2)
    """

    address: str | None = None
    cpus: int | None = None

    def check(self) -> None:
        """Raise MissingExtraError where ``ray`` is not installed, ClusterError where nothing answers at the address."""
        if find_spec("ray") is None:
            raise MissingExtraError("ray", "ray")
        if (address := self._address()) not in ("auto", "local"):
            _check_answer(address)

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Be connected to the cluster; a process that is connected to one already stays so.

        Raises what :meth:`check` does, and ClusterError where Ray is of another version there.
        """
        self.check()
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")  # its news of dead workers would go to stdout
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        if ray.is_initialized():
            yield
            return
        _join(self._address())
        try:
            yield
        finally:
            ray.shutdown()

    def _address(self) -> str:
        return self.address or os.environ.get("RAY_ADDRESS") or "local"


def _join(address: str) -> None:
    import ray

    dashboard = False if address == "local" else None
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=dashboard)
    except (Exception, SystemExit) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ClusterError(f"the Ray cluster at {address} cannot be joined: {reason}") from error
    finally:
        for number, handler in handlers.items() if main else ():
            signal.signal(number, handler)


def _check_answer(address: str) -> None:
    """Raise ClusterError unless a server of gRPC, as Ray's is, answers at ``address``: Ray itself waits for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in address:
        raise ClusterError(
            f"the address of a Ray cluster is HOST:PORT, as `ray start --head` prints it, or auto; got {address!r}. "
            "The command itself runs on a machine of the cluster."
        )
    try:
        with socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS) as connection:
            connection.sendall(_HTTP2)
            frame = connection.recv(9)
        reason = "" if frame[3:4] == bytes([_SETTINGS]) else "what listens there is no Ray cluster"
    except OSError as error:
        reason = str(error.strerror or error)
    if reason:
        raise ClusterError(
            f"no Ray cluster answers at {address}: {reason}. `ray start --head` begins one and prints its address."
        )


def alive_machines() -> list[dict[str, float]]:
    """What each machine of the cluster has, such as ``{"CPU": 8.0, "GPU": 1.0}``."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


@cache
def versions() -> dict[str, str]:
    """Of this process: Python, the libraries that change numbers, and this project with a digest of its code.

    >>> sorted(versions())[:3]
    ['faiss-cpu', 'numpy', 'open_clip_torch']
    """
    own = hashlib.sha256()
    for package in ("cache", "stages", "pipeline"):
        folder = Path(__file__).parent.parent / package
        for path in sorted(folder.rglob("*.py")):
            own.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    there = {"python": platform.python_version(), "permafrost": f"code {own.hexdigest()[:8]}"}
    for library in _LIBRARIES:
        try:
            there[library] = version(library)
        except PackageNotFoundError:
            continue
    return there


def check_versions(worker: str, there: Mapping[str, str]) -> None:
    """Raise ClusterError, naming each, where the versions ``there``, of ``worker``, are not those of this process."""
    own = versions()
    differing = [
        f"{name}: {there.get(name, 'none')} there, {own.get(name, 'none')} in this process"
        for name in sorted(own.keys() | there.keys())
        if own.get(name) != there.get(name)
    ]
    if differing:
        raise ClusterError(
            f"the worker {worker} would compute with other versions than this process, and its numbers would differ "
            f"({'; '.join(differing)}). Install the same on every machine of the cluster."
        )
