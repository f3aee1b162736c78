"""A page followed as a person follows it: each of its blocks typed, in their order, in one folder.

What a block holds says what is done with it: ``bash`` is typed, ``python`` run, ``toml`` written to the run file that
the text above names last, ``cron`` typed without its hours; ``text`` is what is seen after the block before it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.typed import ROOT, permafrost

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_REPLACED = re.compile(r"^\| `(.+?)` \| `(.+?)` \|$", re.MULTILINE)
_NUMBER = re.compile(r"\\?[-+±]?\d+(?:(?:\\[.,:-]|,)?\d+)*\*?")
_NOT_HERE = ("python3.11 -m venv", "source ", "pip ", "nvidia-smi")
REPLACES = "## What the test of this page replaces"


class Reader:
    """Who follows a page in ``folder``; ``replaced`` is the table at the end of it, what is longest first."""

    def __init__(self, page: Path, folder: Path) -> None:
        self.text, _, table = page.read_text(encoding="utf-8").partition(REPLACES)
        self.folder = folder
        self.replaced = dict(sorted(_REPLACED.findall(table), key=lambda pair: -len(pair[0])))
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.replaced |= {"0.0.0.0": "127.0.0.1", ":8000": f":{server.getsockname()[1]}"}
        self.names: dict[str, Any] = {"__name__": "page"}
        self.environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.seen = ""
        self.services: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for service in self.services:
            service.terminate()
            service.communicate()

    def follow(self) -> None:
        """Every block of the page."""
        for block in _BLOCK.finditer(self.text):
            language, content = block[1], self.replace(block[2])
            if language == "text":
                self.check(content)
            elif language == "toml":
                name = re.findall(r"`([\w-]+\.toml)`", self.text[: block.start()])[-1]
                (self.folder / name).write_text(content)
            elif language == "python":
                self.run(content)
            else:
                self.seen = ""
                for line in content.replace("\\\n", "").splitlines():
                    self.type(line.split(maxsplit=5)[-1] if language == "cron" else line)

    def replace(self, text: str) -> str:
        """``text`` with what the table at the end of the page has in its place."""
        for old, new in self.replaced.items():
            text = text.replace(old, new)
        return text

    def run(self, code: str) -> None:
        """Run lines of Python, whose names stay, from a file, as PyTorch wants to read them."""
        path = self.folder / f"block_{len([*self.folder.glob('block_*.py')])}.py"
        path.write_text(code)
        out = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(out), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(code, str(path), "exec"), self.names)
        self.seen = out.getvalue()

    def type(self, line: str) -> None:
        """Type one line, of which the shell's own are few."""
        for part in line.split(" && "):
            words = shlex.split(part, comments=True)
            if not words or part.startswith(_NOT_HERE) or words[:1] == ["cd"]:
                continue
            if words[:2] == ["permafrost", "serve"]:
                self.serve(words[1:])
            elif Path(words[0]).name == "permafrost":
                self.command(words[1:])
            elif words[0] == "export":
                name = words[1].partition("=")[0]
                self.environment[name] = self.shell(f'{part}\nprintf %s "${name}"')
            else:
                self.seen += self.shell(part)

    def command(self, words: list[str]) -> None:
        """A command of Permafrost; with ``>>`` what it says is also added to a file."""
        log = words[words.index(">>") + 1] if ">>" in words else None
        if log:
            words = words[: words.index(">>")]
        done = permafrost(*words, cwd=self.folder)
        assert done.returncode == 0, f"permafrost {words}\n{done.stdout}{done.stderr}"
        self.seen += done.stdout + done.stderr
        if log:
            with (self.folder / log).open("a") as file:
                file.write(done.stdout + done.stderr)
        for path in self.folder.glob("*.toml"):
            path.write_text(self.replace(path.read_text()))

    def shell(self, line: str) -> str:
        """What another program prints."""
        done = subprocess.run(
            ["bash", "-ec", line], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def serve(self, words: list[str]) -> None:
        """Begin to serve, and go on when the address is printed."""
        command = [sys.executable, "-W", "ignore", "-m", "pipeline", *words]
        command += ["--port", self.replaced[":8000"].removeprefix(":")]
        environment = self.environment | {"PYTHONUNBUFFERED": "1"}
        service = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, text=True)
        self.services.append(service)
        assert service.stdout is not None
        self.seen += service.stdout.readline()
        assert service.poll() is None

    def check(self, expected: str) -> None:
        """Each line was seen, but for its numbers; ``...`` stands for anything, or for more lines."""
        seen = [" ".join(line.split()) for line in self.seen.splitlines()]
        for line in expected.splitlines():
            pattern = _NUMBER.sub(r"[-+±]?[\\d.,:-]+\\*?", re.escape(" ".join(line.split()))).replace(r"\.\.\.", ".*")
            assert any(re.fullmatch(pattern, one) for one in seen), f"{line}\nis not among\n{self.seen}"
