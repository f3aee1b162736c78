"""The command: from a run file to answers, and what it refuses to begin with."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.typed import CATALOGUE, ROOT, finished, permafrost

PCA = CATALOGUE.partition("[[backbones]]")[0] + '[[backbones]]\nkind = "pca"\ndim = 8\nsize = 16\n'


@pytest.mark.slow
def test_a_run_is_served_until_the_signal_and_nothing_of_a_request_is_logged(tmp_path: Path) -> None:
    finished(tmp_path, PCA)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "pipeline", "serve", "run.toml", "--port", "0", "--all"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        key = "class 1/0.png"
        answer = httpx.get(f"{address}search", params={"key": key, "k": 3}, timeout=60)
        assert len(answer.json()["results"][0]["matches"]) == 3
        assert httpx.get(f"{address}images/{key}", timeout=60).headers["content-type"] == "image/jpeg"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert (out, key in err) == ("", False)
    assert "serving 72 images" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host", "0.0.0.0"], "a token is wanted"),
        (["--host", "::"], "a token is wanted"),
        (["--host", "0.0.0.0", "--token", "short"], "16 visible ASCII characters"),
        (["--token", "a token that has spaces in it"], "16 visible ASCII characters"),
        (["--host", "no.such.host.invalid", "--token", "a" * 16], "cannot listen on"),
    ],
)
def test_what_would_not_be_safe_is_wrong_usage(flags: list[str], message: str, tmp_path: Path) -> None:
    done = permafrost("serve", "run.toml", *flags, cwd=tmp_path)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = permafrost("serve", "run.toml", "--port", str(taken.getsockname()[1]), cwd=tmp_path)
    assert done.returncode == 2
    assert "Name another port with --port" in done.stderr


@pytest.mark.parametrize("library", ["fastapi", "uvicorn", "python_multipart", "prometheus_client"])
def test_a_missing_library_names_the_extra(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("pipeline.service")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    done = permafrost("serve", "run.toml", cwd=tmp_path)
    assert done.returncode == 1
    assert "pip install 'permafrost-retrieval[serve]'" in done.stderr
