"""A Ray cluster: joined for as long as there is work, refused where it does not answer or its versions differ.

:func:`spread` has work of minutes done by it: a function of each of many things, by long-lived actors. Each does one
thing at a time. One that is lost with its machine, or that crashes, is followed by another, which does the thing again:
a crash cannot be told from a kill, so at the third in a row the thing is named and given up.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar

from cache.errors import ClusterError, CrashedError, MissingExtraError

_ANSWER_SECONDS = 5.0
_LIBRARIES = (
    "faiss-cpu", "numpy", "open_clip_torch", "pillow", "ray", "scikit-learn", "scipy", "timm", "torch", "zarr",
)  # fmt: skip
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


_LOSSES = 3
_BARREN = 12  # ends of workers that had not begun, and none that did in between

K = TypeVar("K")
T = TypeVar("T")
R = TypeVar("R")


class _Actor(Generic[T, R]):
    """Calls the function in its own process, with as many threads as it has processors."""

    def __init__(self, function: Callable[[T], R], cpus: int, folder: str) -> None:
        self._function, self._cpus = function, cpus
        if Path(folder).is_dir():
            os.chdir(folder)

    def hello(self) -> tuple[str, dict[str, str]]:
        return f"{socket.gethostname()}:{os.getpid()}", versions()

    def call(self, thing: T) -> R | Exception:
        import torch

        torch.set_num_threads(self._cpus)
        try:
            return self._function(thing)
        except Exception as error:  # noqa: BLE001 (raised where the work was asked for)
            return error


def places(cluster: RayCluster, at_most: int) -> int:
    """How many actors the machines of ``cluster``, which is joined, have room for, but ``at_most`` so many."""
    room = sum(int(machine.get("CPU", 0)) // (cluster.cpus or 1) for machine in alive_machines())
    if not room:
        raise ClusterError(f"no machine of the Ray cluster has {cluster.cpus or 1} processors to give")
    return min(room, at_most)


def spread(
    cluster: RayCluster, function: Callable[[T], R], things: Mapping[K, T], *, at_most: int | None = None
) -> Iterator[tuple[K, R]]:
    """``function`` of each of ``things``, by name, as they finish: by an actor for each processor, or ``cluster.cpus``.

    Functions of modules and things can be pickled; the machines have this code, and what is read, under the same paths.
    What ``function`` raises is raised; CrashedError where three actors, one after the other, ended with the same thing.
    """
    with cluster.joined():
        import ray

        begin: Any = ray.remote(_Actor).options(num_cpus=cluster.cpus or 1, enable_task_events=False)
        left = list(things)
        losses: dict[K | None, int] = dict.fromkeys([None, *things], 0)  # None: of actors that had not begun
        waiting: dict[Any, tuple[Any, K | None]] = {}  # an actor, and what it does; None: says who it is

        def begun() -> None:
            actor = begin.remote(function, cluster.cpus or 1, str(Path.cwd()))
            waiting[actor.hello.remote()] = actor, None

        for _ in range(places(cluster, min(at_most or len(things), len(things)))):
            begun()
        try:
            while waiting:
                (reference,), _ = ray.wait(list(waiting), num_returns=1)
                actor, name = waiting.pop(reference)
                try:
                    answer = ray.get(reference)
                except ray.exceptions.RayError as error:
                    if getattr(error, "_actor_init_failed", False) or isinstance(error, ray.exceptions.RayTaskError):
                        raise ClusterError(f"a worker cannot begin: {str(error).splitlines()[-1]}") from error
                    losses[name] += 1
                    if name is None and losses[name] == _BARREN:
                        raise ClusterError(f"{_BARREN} workers ended before they began, the last: {error}") from error
                    if name is not None:
                        if losses[name] == _LOSSES:
                            raise CrashedError(f"{_LOSSES} workers, one after the other, ended with {name}") from error
                        left.insert(0, name)
                    begun()
                    continue
                if isinstance(answer, Exception):
                    raise answer
                if name is None:
                    losses[None] = 0
                    check_versions(*answer)
                else:
                    yield name, answer
                if left:
                    name = left.pop(0)
                    waiting[actor.call.remote(things[name])] = actor, name
        finally:
            for actor, _ in waiting.values():
                ray.kill(actor)
