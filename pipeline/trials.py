"""Trials that are run once: what each measures is a file, ``<fingerprint>.npz``, from which the same work goes on.

::

    trials --finished?--> files
           --else, in groups--> this process, some of one thread each, or workers of a Ray cluster --> files
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeAlias, TypeVar
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch

from cache import Storage
from cache.errors import DamagedStoreError
from stages.processes import worker_processes
from stages.ray_cluster import RayCluster, places, spread

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""What a trial measures: numbers and text, by name."""

T = TypeVar("T")
Work: TypeAlias = Callable[[Sequence[T]], Sequence[Arrays]]


def alone(trials: Sequence[object], _: int | None) -> list[list[int]]:
    """Every trial in a group of its own."""
    return [[at] for at in range(len(trials))]


def run_once(
    trials: Mapping[str, T],
    storage: Storage,
    local: Work[T],
    remote: Work[T],
    groups: Callable[[Sequence[T], int | None], list[list[int]]] = alone,
    *,
    workers: int | None = None,
    cluster: RayCluster | None = None,
) -> Iterator[tuple[str, Arrays, bool]]:
    """Yield the fingerprint and the arrays of each of ``trials``, and whether it was run now, as they finish.

    The fingerprint stands for everything that arrays follow from. Trials with a file in ``storage`` come first and are
    not run; the others are by the function ``local`` in this process, or by ``remote``, the same which can be pickled,
    in so many ``workers`` of one thread or on a ``cluster``. It runs one of ``groups`` at a time, the places of trials,
    at most so many together. DamagedStoreError for a file that cannot be read.
    """
    unfinished: dict[str, T] = {}
    for name, trial in trials.items():
        try:
            arrays = _read(storage, _key(name))
        except FileNotFoundError:
            unfinished[name] = trial
        else:
            yield name, arrays, False
    if not unfinished:
        return
    names, wanted = list(unfinished), list(unfinished.values())
    with cluster.joined() if cluster else nullcontext():
        share = None if cluster is None else -(-len(wanted) // places(cluster, len(wanted)))
        grouped = dict(enumerate(groups(wanted, share)))
        things = {number: [wanted[at] for at in group] for number, group in grouped.items()}
        done = (
            spread(cluster, remote, things, at_most=workers)
            if cluster
            else _on_this_machine(local, remote, things, workers)
        )
        for number, results in done:
            for at, arrays in zip(grouped[number], results, strict=True):
                content = io.BytesIO()
                np.savez(content, **arrays)  # type: ignore[arg-type]
                storage.put(_key(names[at]), content.getbuffer())
                yield names[at], arrays, True


def _on_this_machine(
    local: Work[T], remote: Work[T], things: Mapping[int, Sequence[T]], workers: int | None
) -> Iterator[tuple[int, Sequence[Arrays]]]:
    count = min(workers or 1, len(things))
    if count > 1:
        with worker_processes(count, partial(torch.set_num_threads, 1)) as pool:
            waiting = {pool.submit(remote, thing): number for number, thing in things.items()}
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        return
    threads = torch.get_num_threads()  # another process takes seconds to begin
    if workers is not None:
        torch.set_num_threads(1)
    try:
        yield from ((number, local(thing)) for number, thing in things.items())
    finally:
        torch.set_num_threads(threads)


def _key(name: str) -> str:
    return f"{name[:32]}.npz"


def _read(storage: Storage, key: str) -> Arrays:
    try:
        with np.load(io.BytesIO(storage.read(key)), allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise DamagedStoreError(
            f"{storage.address(key)} cannot be read: {error}. Delete it: its trial is run again."
        ) from error
