"""Weights that a library downloads: what it says when it cannot, and in seconds, not minutes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from cache.errors import WeightsError

_PATIENCE = 5.0  # seconds


@contextmanager
def fetching(what: str, source: str) -> Iterator[None]:
    """Around a library's download of ``what`` from ``source``, a URL or the name of a repository of the Hub.

    Any error but that of a wrong argument becomes a :class:`WeightsError`. Where the source's machine cannot be reached
    what is in the library's cache is used, and what is not is an error at once: left alone, the Hub's client tries each
    file six times with pauses, and a connection that nobody answers is given up by the system after two minutes.
    """
    from huggingface_hub import constants

    server = source if "://" in source else constants.ENDPOINT
    offline, timeout = constants.HF_HUB_OFFLINE, socket.getdefaulttimeout()
    reached = offline or _reached(server)
    if not reached:
        constants.HF_HUB_OFFLINE = True
        socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    except Exception as error:
        if isinstance(error, (TypeError, ValueError)) and not isinstance(error, OSError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if not reached:
            reason = f"{urlsplit(server).hostname} cannot be reached, and the library's cache does not do: {reason}"
        raise WeightsError(
            f"{what} could not be fetched from {source}: {reason} "
            'Without the internet, copy the file here and say weights = "FILE".'
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = offline
        socket.setdefaulttimeout(timeout)


def _reached(server: str) -> bool:
    """Whether anything answers at the URL ``server``, through the proxy that the Hub's client is set to."""
    from huggingface_hub import get_session

    answers: list[bool] = []

    def ask() -> None:
        try:
            get_session().head(server, timeout=_PATIENCE)
            answers.append(True)
        except Exception:  # noqa: BLE001 - the client's own, of either of two libraries
            answers.append(False)

    # In a thread of its own, since looking up a name heeds no timeout.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(1.5 * _PATIENCE)
    return any(answers)
