"""The file that a killed training continues from: replaced atomically after every epoch."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from cache import LocalStorage

State = dict[str, Any]


class Checkpoint:
    """The finished parts of a training, and the state of the current one.

    A part is the training of one head; a training can have several (with held-out classes, with all; members of a
    soup). Without a path nothing is stored. A file of another head, or one that cannot be read, counts as none: the
    training then starts again and replaces the file.
    """

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self._path, self._fingerprint, self._within = path, fingerprint, ""
        self._parts = {} if path is None else _read(path, fingerprint)

    def within(self, name: str) -> Checkpoint:
        """The same file for the parts of the expert ``name``."""
        inside = copy.copy(self)  # shares the dict of parts
        inside._within = f"{self._within}{name}/"
        return inside

    def part(self, name: str) -> State | None:
        """The last state of the part ``name``; None where there is none."""
        return self._parts.get(self._within + name)

    def keep(self, name: str, state: State) -> None:
        """Store the ``state`` of the part ``name``: tensors, numbers, strings, lists and dicts of them."""
        self._parts[self._within + name] = state
        if self._path is not None:
            content = io.BytesIO()
            torch.save({"fingerprint": self._fingerprint, "parts": self._parts}, content)
            LocalStorage(self._path.parent).put(self._path.name, content.getbuffer())


def _read(path: Path, fingerprint: str) -> dict[str, State]:
    try:
        stored = LocalStorage(path.parent).read(path.name)
        content: State = torch.load(io.BytesIO(stored), weights_only=True)
        return dict(content["parts"]) if content["fingerprint"] == fingerprint else {}
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError):
        return {}  # a checkpoint only saves time
