"""Worker processes: none outlives the process that began it, and there are as many as processors to use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stages import processes
from stages.processes import processors, worker_processes
from tests.interrupts import hear_interrupts
from tests.typed import ROOT

SCRIPT = """
import sys, threading
from stages.processes import worker_processes

def hold(path):
    pipe = open(path, "w")  # who reads it sees the end of this process
    threading.Event().wait()

if __name__ == "__main__":
    with worker_processes(2) as pool:
        for path in sys.argv[1:]:
            pool.submit(hold, path)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    pipes = [tmp_path / "first", tmp_path / "second"]
    for pipe in pipes:
        os.mkfifo(pipe)
    command = [sys.executable, "script.py", *map(str, pipes)]
    parent = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
    )
    held = [pipe.open() for pipe in pipes]  # returns once both workers hold theirs
    parent.send_signal(number)
    assert [end.read() for end in held] == ["", ""]  # returns once both have ended
    for end in held:
        end.close()
    _, output = parent.communicate()
    assert parent.returncode != 0
    assert "SpawnProcess" not in output


def test_an_exception_ends_workers_that_are_at_work(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def fail() -> None:
        with worker_processes(1) as pool:
            pool.submit(Path.read_text, pipe)  # of a pipe that nobody writes to: it would never end
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        fail()


def test_interrupts_reach_the_parent_alone() -> None:
    with worker_processes(1) as pool:
        blocked = pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result()
    assert signal.SIGINT in blocked
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_each_worker_starts_as_it_is_told() -> None:
    with worker_processes(2, start=hear_interrupts) as pool:
        assert list(pool.map(abs, range(-3, 0))) == [3, 2, 1]


def test_processors_are_those_of_the_affinity_mask_and_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(processes, "_QUOTA", quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    for text, expected in (("max 100000", 8), ("250000 100000", 2), ("10000 100000", 1), ("990000 100000", 8)):
        quota.write_text(text)
        assert processors() == expected
    quota.unlink()
    assert processors() == 8
