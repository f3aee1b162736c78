"""Work of minutes on the machines of a Ray cluster: a function of each of many things, by long-lived actors.

Each actor does one thing at a time. One that is lost with its machine, or that crashes, is followed by another, which
does the thing again: a crash cannot be told from a kill, so at the third in a row the thing is named and given up.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from cache.errors import ClusterError, CrashedError
from stages.ray_cluster import RayCluster, alive_machines, check_versions, versions

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

    Args:
        cluster: the machines, which have this code, and what the function reads, under the same paths.
        function: a picklable function of a module; what it raises is raised.
        things: what it is called with, picklable, each with its name.
        at_most: so many actors.

    Raises:
        ClusterError: the cluster cannot be joined, or a worker of it has other versions.
        CrashedError: three actors ended, one after the other, with the same thing.
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
