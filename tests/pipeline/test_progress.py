"""Lines on stderr: with their time for a log, and rates that are not rounded to none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import pytest

from pipeline.progress import Display, LogFormat, set_log_format
from tests.typed import permafrost


@pytest.fixture(autouse=True)
def plain_afterwards() -> Iterator[None]:
    yield
    set_log_format(LogFormat.plain)


def test_lines_with_their_time(capsys: pytest.CaptureFixture[str]) -> None:
    set_log_format(LogFormat.time)
    before = datetime.now(UTC)
    Display().say("extracting")
    Display(quiet=True).warn("2 images failed")
    first, second = capsys.readouterr().err.splitlines()
    moment, _, message = first.partition(" ")
    assert abs((datetime.fromisoformat(moment) - before).total_seconds()) < 3600
    assert (message, second.partition(" ")[2]) == ("info: extracting", "warning: 2 images failed")


def test_a_warning_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(quiet=True)
    for text in ("a note", "another", "a note"):
        display.warn(text)
    Display(quiet=True, warnings=False).warn("a note")
    assert capsys.readouterr().err.splitlines() == ["a note", "another"]


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    set_log_format(LogFormat.json)
    Display().say('a "quoted" name')
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["message"], sorted(line)) == ("info", 'a "quoted" name', ["level", "message", "time"])


def test_an_error_of_a_command_is_a_line_of_the_log(tmp_path: Path) -> None:
    done = permafrost("--log-format", "json", "score", "nowhere.toml", cwd=tmp_path)
    line = json.loads(done.stderr)
    assert (done.returncode, line["level"]) == (2, "error")
    assert line["message"].startswith("nowhere.toml does not exist")
    assert permafrost("--log-format", "xml", "score", "nowhere.toml", cwd=tmp_path).returncode == 2


def test_the_version(tmp_path: Path) -> None:
    done = permafrost("--version", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout == f"{metadata.version('permafrost-retrieval')}\n"


@pytest.mark.parametrize(
    ("done", "seconds", "shown"), [(1, 4.0, "0.25 epochs/s"), (3, 2.0, "1.5 epochs/s"), (3000, 2.0, "1,500 epochs/s")]
)
def test_a_slow_rate_is_not_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, done: int, seconds: float, shown: str
) -> None:
    clock = iter([0.0, seconds, *[seconds + 60] * 9])
    monkeypatch.setattr("pipeline.progress._LOG_SECONDS", 0)
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with Display().bar("training", "epochs") as update:
        update(done, None, "")
    assert shown in capsys.readouterr().err
