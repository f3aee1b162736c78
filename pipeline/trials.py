"""The trials that a sweep has finished: they are kept, and the same sweep goes on from them.

::

    <artifacts>/sweeps/<run>-<fingerprint of the data, the folds and the seeds>/
        values/<trial>.npy   the value of each query, float32
        trials.jsonl         a line a trial; a trial without its line does not exist
        leaderboard.csv, leaderboard.html
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.atomic import replace_bytes, replace_text
from cache.errors import DamagedStoreError
from stages.training.sweep import Trial

_LOG, _VALUES = "trials.jsonl", "values"


@dataclass(frozen=True)
class Line:
    """What ``trials.jsonl`` says of a trial; ``trial`` is its fingerprint, ``scores`` are by fold, then by seed."""

    trial: str
    backbone: str
    head: str
    settings: Mapping[str, Any]
    scores: list[list[float]]
    seconds: float
    diverged: int


class TrialLog:
    """The finished trials in ``folder``. Raises DamagedStoreError for lines that no sweep wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines: dict[str, Line] = {}
        path = folder / _LOG
        if path.exists():
            try:
                written = path.read_text(encoding="utf-8").splitlines()
                self._lines = {line.trial: line for line in (Line(**json.loads(text)) for text in written)}
            except (TypeError, ValueError) as error:
                raise DamagedStoreError(
                    f"{path} is not as it was written: {error}. Mend the line, or delete the file and sweep again."
                ) from error

    def __len__(self) -> int:
        return len(self._lines)

    def find(self, trial: str) -> Trial | None:
        """The trial of this fingerprint, if it was finished."""
        line = self._lines.get(trial)
        if line is None:
            return None
        path = self._path(trial)
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DamagedStoreError(
                f"{path} cannot be read, though {_LOG} lists it: {error}. Delete its line there: it is tried again."
            ) from error
        return Trial(np.array(line.scores), values, line.seconds, line.diverged)

    def keep(self, trial: str, backbone: str, head: str, settings: Mapping[str, Any], found: Trial) -> None:
        """Commit a finished trial: its values first, then its line."""
        content = io.BytesIO()
        np.save(content, found.values, allow_pickle=False)
        replace_bytes(self._path(trial), content.getvalue())
        self._lines[trial] = Line(
            trial, backbone, head, dict(settings), found.scores.tolist(), round(found.seconds, 3), found.diverged
        )
        replace_text(self.folder / _LOG, "".join(json.dumps(asdict(line)) + "\n" for line in self._lines.values()))

    def _path(self, trial: str) -> Path:
        return self.folder / _VALUES / f"{trial[:16]}.npy"
