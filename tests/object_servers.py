"""Servers of objects on loopback, started and ended by the test that uses them."""

from __future__ import annotations

import base64
import hmac
import io
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.client import HTTPConnection
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest

BUCKET = "bucket"


def environment(port: int) -> dict[str, str]:
    """What a process must have in its environment to reach the server at ``port``."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
        "AWS_REGION": "us-east-1",
    }


@dataclass
class Quirks:
    """What a server does otherwise than it should, and what it was asked for."""

    conditional: Literal["honour", "ignore", "reject"] = "honour"
    """What becomes of a put that is to be done only if nothing is there."""
    latency: float = 0.0
    """Seconds before each answer."""
    busy_before: dict[tuple[str, str], int] = field(default_factory=dict)
    """How many times to answer 503 and do nothing, by method and what the path ends with."""
    busy_after: dict[tuple[str, str], int] = field(default_factory=dict)
    """The same, having done it all the same."""
    not_listed: set[str] = field(default_factory=set)
    """Endings of names that listings do not have yet."""
    requests: list[tuple[str, str]] = field(default_factory=list)

    def turn(self, turns: dict[tuple[str, str], int], method: str, path: str) -> bool:
        """Whether this request is one of ``turns``, which has one fewer then."""
        for (other, ending), left in turns.items():
            if left and method == other and path.endswith(ending):
                turns[other, ending] = left - 1
                return True
        return False


@contextmanager
def localbucket(root: Path, patch: pytest.MonkeyPatch, quirks: Quirks | None = None, *, port: int = 0) -> Iterator[str]:
    """``s3://bucket`` on disk below ``root``, in a thread; ``patch`` gets the environment that reaches it.

    ``port`` is where it listens, by default one that is free.
    """
    module: Any = pytest.importorskip("localbucket", reason="localbucket, the server of objects, is not installed")
    pytest.importorskip("obstore", reason="obstore is not installed")
    odd = quirks or Quirks()

    class Handler(module.S3Handler):  # type: ignore[misc]
        data_root = root
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

        def _dispatch(self, action: Any) -> None:
            time.sleep(odd.latency)
            odd.requests.append((self.command, self.path))
            conditional = "If-None-Match" in self.headers
            if conditional and odd.conditional == "ignore":
                del self.headers["If-None-Match"]
            if conditional and odd.conditional == "reject":
                self._instead(501)
            elif odd.turn(odd.busy_before, self.command, self.path):
                self._instead(503)
            elif odd.turn(odd.busy_after, self.command, self.path):
                self.wfile, wire = io.BytesIO(), self.wfile
                module.S3Handler._dispatch(self, action)
                self.wfile = wire
                self._instead(503, read=False)
            else:
                module.S3Handler._dispatch(self, action)

        def _instead(self, status: int, *, read: bool = True) -> None:
            if read:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _add_list_entries(self, page: Any, contents: Any, *rest: Any) -> None:
            contents = [entry for entry in contents if not entry[0].endswith(tuple(odd.not_listed))]
            module.S3Handler._add_list_entries(self, page, contents, *rest)

    (root / BUCKET).mkdir(parents=True, exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that was killed
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in environment(server.server_port).items():
            patch.setenv(name, value)
        patch.setenv("PERMAFROST_CACHE", str(root.with_name("cache")))
        yield f"s3://{BUCKET}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def azurite(root: Path, patch: pytest.MonkeyPatch) -> Iterator[str]:
    """``az://bucket`` on disk below ``root``, at the port of Azure's emulator, 10000."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite-blob, the server of az://, is not on the PATH (npm install azurite)")
    pytest.importorskip("obstore", reason="obstore is not installed")
    if not _is_free(10000):
        pytest.skip("port 10000, azurite's own, is taken")
    command = [program, "--location", str(root), "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while _is_free(10000):
            assert server.poll() is None
            time.sleep(0.05)
        patch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
        patch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "devstoreaccount1")
        _make_container()
        yield f"az://{BUCKET}"
    finally:
        server.kill()
        server.wait()


def _is_free(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


def _make_container() -> None:
    """Create the container with the emulator's published key: obstore creates none."""
    key = b"Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    account, now = "devstoreaccount1", formatdate(usegmt=True)
    resource = f"/{account}/{account}/{BUCKET}\nrestype:container"
    text = "\n".join(["PUT", *[""] * 11, f"x-ms-date:{now}", "x-ms-version:2021-08-06", resource])
    signature = base64.b64encode(hmac.digest(base64.b64decode(key), text.encode(), "sha256")).decode()
    headers = {"x-ms-date": now, "x-ms-version": "2021-08-06", "Authorization": f"SharedKey {account}:{signature}"}
    connection = HTTPConnection("127.0.0.1", 10000)
    connection.request("PUT", f"/{account}/{BUCKET}?restype=container", headers=headers)
    answer = connection.getresponse()
    assert answer.status == 201, answer.read()
    connection.close()
