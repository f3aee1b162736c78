"""How a command ends: with streams that are closed, broken or full, and by a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interrupts import hear_interrupts
from tests.pictures import draw_folder
from tests.toys.stores import fill, names, open_store
from tests.typed import ROOT

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
MAIN = [sys.executable, "-m", "pipeline"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with six rows, and a folder of images."""
    folder = tmp_path_factory.mktemp("streams")
    fill(open_store(folder), names(1, 2, 3, 4, 5, 6))
    draw_folder(folder / "images", {"cup": 2, "jug": 2})
    return folder


def typed(folder: Path, arguments: str, redirections: str) -> subprocess.CompletedProcess[str]:
    """What a shell says of a command with ``redirections``."""
    command = f"{sys.executable} -m pipeline {arguments} {redirections}"
    return subprocess.run(command, shell=True, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "redirections"),
    [
        ("inspect toy-????????", ">&- 2>&- <&-"),
        ("init images", ">&- 2>&- <&-"),
        ("verify toy-????????", "2>&-"),
        ("inspect toy-???????? --json", "2>/dev/full"),
    ],
)
def test_finished_work_is_status_0_where_nobody_listens(folder: Path, arguments: str, redirections: str) -> None:
    done = typed(folder, arguments, redirections)
    assert (done.returncode, done.stderr) == (0, "")
    if arguments.startswith("init"):
        assert (folder / "run.toml").read_text()
    if "--json" in arguments:
        assert '"rows": {"ok": 6}' in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["inspect", "."]])
def test_a_reader_that_wants_no_more_is_no_error(folder: Path, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as `| head -0` leaves it
    done = subprocess.run(MAIN + arguments, cwd=folder, env=ENVIRONMENT, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_results_that_find_no_room_are_one_line_and_status_1(folder: Path) -> None:
    done = typed(folder, "inspect toy-????????", ">/dev/full")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: stdout: No space left on device")


def test_an_error_that_cannot_be_printed_is_still_a_status(folder: Path) -> None:
    assert typed(folder, "inspect nowhere", "2>/dev/full").returncode == 2
    assert typed(folder, "extarct", "2>&-").returncode == 2


WAITING = """
import threading, pipeline.cli

def wait(**settings):
    print("ready", flush=True)
    threading.Event().wait()

pipeline.cli.app = wait
pipeline.cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_signal_that_stops_a_command_says_how_to_go_on(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, text = process.communicate()
    assert process.returncode == 128 + number
    assert "Stopped." in text
    assert "Traceback" not in text
