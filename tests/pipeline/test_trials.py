"""Trials that are run once: files of finished ones, and what a damaged one says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from cache import LocalStorage
from cache.errors import DamagedStoreError
from pipeline.trials import Arrays, run_once

TRIALS = {letter * 64: number for number, letter in enumerate("abc")}


class Runner:
    """Runs trials, and fails at the one called ``fails``."""

    def __init__(self, fails: str = "") -> None:
        self.ran: list[str] = []
        self._fails = fails

    def __call__(self, trials: Sequence[int]) -> list[Arrays]:
        arrays: list[Arrays] = []
        for number in trials:
            name = list(TRIALS)[number]
            if name == self._fails:
                raise RuntimeError("killed")
            self.ran.append(name)
            arrays.append({"values": np.array([number, 0.5]), "keys": np.array(["x", "ü"])})
        return arrays


def run(folder: Path, runner: Callable[[Sequence[int]], list[Arrays]]) -> dict[str, tuple[list[float], list[str]]]:
    """What the trials measured, each by ``runner`` alone or read from ``folder``."""
    results = run_once(TRIALS, LocalStorage(folder), runner, runner)
    return {name: (arrays["values"].tolist(), arrays["keys"].tolist()) for name, arrays, _ in results}


def test_a_trial_is_run_once_and_read_after_that(tmp_path: Path) -> None:
    first, second = Runner(), Runner()
    results = run(tmp_path, first)
    assert results == {name: ([float(number), 0.5], ["x", "ü"]) for name, number in TRIALS.items()}
    assert run(tmp_path, second) == results
    assert second.ran == []


def test_a_run_that_is_killed_goes_on_with_the_trials_that_it_had_not_finished(tmp_path: Path) -> None:
    names = list(TRIALS)
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path, Runner(fails=names[2]))
    rest = Runner()
    assert list(run(tmp_path, rest)) == names
    assert rest.ran == names[2:]


def test_trials_that_are_all_finished_start_no_runner(tmp_path: Path) -> None:
    run(tmp_path, Runner())

    def refuse(_: Sequence[int]) -> list[Arrays]:
        raise AssertionError("a runner was started")

    assert len(run(tmp_path, refuse)) == 3


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, content: bytes | None) -> None:
    run(tmp_path, Runner())
    (path,) = tmp_path.glob("b*.npz")
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    with pytest.raises(DamagedStoreError, match=r"b{32}\.npz cannot be read: .* Delete it: its trial is run again"):
        run(tmp_path, Runner())
