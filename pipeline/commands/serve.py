"""``permafrost serve``: serve search over HTTP: a page for people, answers in JSON for programs."""

from __future__ import annotations

import os
import re
import secrets
import socket
from importlib.util import find_spec
from typing import Annotated

import typer

from cache.errors import ConfigError, MissingExtraError
from pipeline.commands.options import Device, Quiet
from pipeline.progress import Display

_TOKEN = re.compile(r"[!-~]{16,}")


def serve(
    path: Annotated[
        str, typer.Argument(metavar="BUNDLE|RUN.TOML", help="A bundle or a run file that was run, or its address.")
    ],
    host: Annotated[
        str, typer.Option(help="The address to listen at. Any but this machine's own wants a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen at; 0 for a free one.")] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar="PERMAFROST_TOKEN", help="Answer those alone who send this token.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Of a run: serve every record, not only the gallery.")
    ] = False,
    max_megabytes: Annotated[float, typer.Option(min=0.001, max=1024, help="Of an uploaded image.")] = 16,
    max_megapixels: Annotated[float, typer.Option(min=0.001, max=178, help="Of an uploaded image.")] = 64,
    queue: Annotated[int, typer.Option(min=1, help="Images that may wait; one more is refused.")] = 128,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Serve search over HTTP: a page for people, and answers in JSON for programs."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # of PyTorch's threads, which else spin for seconds under load
    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "serve")
    from pipeline.service.app import create_app
    from pipeline.service.guard import Metrics, is_loopback
    from pipeline.service.limits import Limits
    from pipeline.service.server import run, server_of
    from pipeline.service.snapshots import open_snapshots

    if token is None and not is_loopback(host):
        raise ConfigError(
            f"--host {host} is reached from other machines: a token is wanted. Set PERMAFROST_TOKEN or --token, "
            f"say to {secrets.token_urlsafe(24)}; who has it opens the page at #token=TOKEN."
        )
    if token is not None and not _TOKEN.fullmatch(token):
        got = f"got {len(token)} characters that are not that"
        raise ConfigError(f"a token has 16 visible ASCII characters or more, {got}")
    display, metrics = Display(quiet=quiet), Metrics()
    listening = _listen(host, port)
    snapshots = open_snapshots(path, device=device, everything=everything, quiet=quiet, on_change=metrics.snapshot)
    limits = Limits(max_bytes=int(max_megabytes * 2**20), max_pixels=int(max_megapixels * 1e6), queue=queue)
    app = create_app(snapshots, limits=limits, token=token, metrics=metrics)
    heads = ", ".join(head.name for head in snapshots.current.heads)
    display.say(f"serving {len(snapshots.current):,} images with {heads}; Ctrl-C ends it")
    name, number = listening.getsockname()[:2]
    typer.echo(f"http://{f'[{name}]' if ':' in name else name}:{number}/" + ("#token=TOKEN" if token else ""))
    run(server_of(app), listening)


def _listen(host: str, port: int) -> socket.socket:
    """A socket at ``host``; whoever asks before all is loaded waits."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}. Name another port with --port") from None
