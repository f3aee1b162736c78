"""What a killed training goes on from: one file beside the head's, written whole after every epoch."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from cache.atomic import replace_bytes

State = dict[str, Any]


class Checkpoint:
    """The parts of a training that are done, and how far the one at work is.

    A part is one head on its way; a training can have several (with held-out classes, with all; members of a soup).
    Without a path nothing is kept. A file of another head, or one that cannot be read, counts as none: then training
    begins anew, and the file is written over.
    """

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self._path = path
        self._fingerprint = fingerprint
        self._parts: dict[str, State] = {}
        self._within = ""
        if path is not None and path.is_file():
            self._parts = _read(path, fingerprint)

    def within(self, name: str) -> Checkpoint:
        """The same file, for parts of their own: those of the expert ``name``."""
        inside = copy.copy(self)  # the parts stay one dict
        inside._within = f"{self._within}{name}/"
        return inside

    def part(self, name: str) -> State | None:
        """What was kept last of the part ``name``."""
        return self._parts.get(self._within + name)

    def keep(self, name: str, state: State) -> None:
        """Write what the part ``name`` is to go on from: tensors, numbers, strings, lists and dicts of them."""
        self._parts[self._within + name] = state
        if self._path is not None:
            content = io.BytesIO()
            torch.save({"fingerprint": self._fingerprint, "parts": self._parts}, content)
            replace_bytes(self._path, content.getbuffer())


def _read(path: Path, fingerprint: str) -> dict[str, State]:
    try:
        content: State = torch.load(path, weights_only=True)
        return dict(content["parts"]) if content["fingerprint"] == fingerprint else {}
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError):
        return {}  # it saves time and holds nothing else
