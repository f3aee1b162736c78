"""Every test where a machine gives little: few open files, no standard input, one processor, nowhere to write.

    python -m benchmarks.check_hostile [PYTEST ARGUMENTS]

Runs pytest twice: with 256 open files and a closed standard input, and on one processor with ``HOME`` and ``TMPDIR`` in
a folder that is read-only (for root too, by a mount of its own). Tests write below a folder of their own. The exit
status is 1 when one of the two fails.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.read_only import read_only

FILES = 256


def few_files_and_no_input() -> None:
    """What a job of a scheduler begins with."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    os.close(0)


def one_processor() -> None:
    """Where the system can say so (Linux)."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def passes(
    name: str, prepare: Callable[[], None], environment: Mapping[str, str], place: Path, arguments: list[str]
) -> bool:
    """Whether every test passes in a process that begins with ``prepare``; tests write below ``place``."""
    place.mkdir()
    own = ["--numprocesses", "2", "--dist", "loadfile", "--basetemp", f"{place / 'tests'}", "-o", f"cache_dir={place}"]
    command = [sys.executable, "-m", "pytest", *own, *arguments]
    done = subprocess.run(command, env=os.environ | environment, preexec_fn=prepare, check=False)
    print(f"{name}: {'passed' if done.returncode == 0 else f'FAILED (status {done.returncode})'}", flush=True)
    return done.returncode == 0


def main(arguments: list[str]) -> int:
    """Run the tests under both conditions; the exit status."""
    with tempfile.TemporaryDirectory() as scratch:
        place, locked = Path(scratch), Path(scratch) / "locked"
        locked.mkdir()
        first = passes("256 open files, no standard input", few_files_and_no_input, {}, place / "first", arguments)
        with read_only(locked):
            nowhere = {"HOME": str(locked), "TMPDIR": str(locked)}
            second = passes("one processor, nowhere to write", one_processor, nowhere, place / "second", arguments)
    return 0 if first and second else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
