"""Processes that are killed, forked from one that has imported what they run: that takes seconds, and happens once."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import traceback
from importlib import import_module
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parent.parent


class Forks:
    """Inside ``with Forks("package.module:function") as forks`` processes call the function, one after the other."""

    def __init__(self, function: str) -> None:
        command = [sys.executable, "-W", "ignore", "-m", __name__, function]
        self._server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def __enter__(self) -> Forks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate()

    def start(self, *arguments: str | int) -> int:
        """Begin the next process; its id."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(arguments).encode() + b"\n")
        return int(self.line())

    def line(self) -> str:
        """The next line that the process prints."""
        assert self._server.stdout is not None
        return self._server.stdout.readline().decode().strip()

    def prints_within(self, seconds: float) -> bool:
        """Whether there is a line, or the process has ended."""
        assert self._server.stdout is not None
        return bool(select.select([self._server.stdout], [], [], seconds)[0])

    def status(self) -> int:
        """The exit status of the process, once it has ended."""
        return int(self.line())

    def run(self, *arguments: str | int) -> int:
        """Begin the next process, and wait for its exit status."""
        self.start(*arguments)
        return self.status()


def serve(function: str) -> None:
    """For each line of arguments fork a process that prints its id and calls ``function``; print how it ended."""
    module, _, name = function.partition(":")
    called = getattr(import_module(module), name)
    for line in sys.stdin:
        if not (process := os.fork()):
            os.write(1, f"{os.getpid()}\n".encode())
            try:
                called(*json.loads(line))
            except BaseException:  # noqa: BLE001 (whatever it is, this process must not go on as the server)
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.write(1, f"{os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}\n".encode())


if __name__ == "__main__":
    serve(sys.argv[1])
