"""The file that a killed training continues from: replaced atomically after every epoch."""

from __future__ import annotations

import io
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from cache import LocalStorage

State = dict[str, Any]
_UNREADABLE = (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError)


class Checkpoint:
    """The finished parts of a training, and the state of the current one.

    A part is the training of one network; a training can have several (with held-out classes, with all; members of a
    soup; experts). Without a path nothing is stored. A file of another head, or one that cannot be read, counts as
    none: the training then starts again and replaces the file.
    """

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self._path, self._fingerprint = path, fingerprint
        self._parts: dict[str, State] = {}
        if path is not None:
            with suppress(*_UNREADABLE):  # a checkpoint only saves time
                content = torch.load(path, weights_only=True)
                self._parts = dict(content["parts"]) if content["fingerprint"] == fingerprint else {}

    def part(self, name: str) -> State | None:
        """The last state of the part ``name``; None where there is none."""
        return self._parts.get(name)

    def keep(self, name: str, state: State) -> None:
        """Store the ``state`` of the part ``name``: tensors, numbers, strings, lists and dicts of them."""
        self._parts[name] = state
        if self._path is not None:
            content = io.BytesIO()
            torch.save({"fingerprint": self._fingerprint, "parts": self._parts}, content)
            LocalStorage(self._path.parent).put(self._path.name, content.getbuffer())
