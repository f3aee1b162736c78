"""How long ``permafrost report`` takes: the whole command, from an idle shell to a page on disk.

Draws QUERIES queries, twice as many gallery images and 2,000 to train on, runs all three stages once (not timed), then
times the report twice: with the scores that ``run`` left, and without them. Writes ``results/report.json``.

    python -m benchmarks.report [QUERIES] [FOLDER]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measured import Row, write

_CLASSES, _DOMAINS, _SIDE, _TRAINED = 500, 5, 96, 2000
_TARGET_S = 20.0
_RUN = """
artifacts = {artifacts}
[dataset]
kind = "table"
path = {table}
label = "label"
train = "train"
query = "query"
gallery = "gallery"
[[backbones]]
kind = "pca"
dim = 512
[[heads]]
name = "lda64"
kind = "lda"
dim = 64
[[heads]]
name = "pca64"
kind = "pca"
dim = 64
[retrieval]
metrics = ["mmp@5", "map@r", "hit@1"]
"""


def main(queries: int, folder: Path | None) -> None:
    """Draw, run, and time the report."""
    with tempfile.TemporaryDirectory() as scratch:
        home = folder or Path(scratch)
        run_file = _drawn(home, queries)
        subprocess.run(_command("run", run_file), check=True, stdout=subprocess.DEVNULL)
        rows = []
        for what in ("scored before", "scoring too"):
            if what == "scoring too":
                (home / "artifacts/scores/run.parquet").unlink()
            started = time.monotonic()
            done = subprocess.run([*_command("report", run_file), "--json"], check=True, capture_output=True, text=True)
            seconds = time.monotonic() - started
            size = json.loads(done.stdout)["bytes"] / 1e6
            work = f"report of {queries:,} queries x {2 * queries:,} gallery, 3 rows, {what}"
            limit = f"{size:.1f} MB, 512 and 64 numbers"
            rows.append(Row(work, seconds, "what was asked for", _TARGET_S, "s", _TARGET_S / seconds, 1.0, limit))
    write("report", rows)


def _drawn(home: Path, queries: int) -> Path:
    """The run file of drawn images; those that are there already stay."""
    run_file = home / "run.toml"
    if not run_file.exists():
        (home / "images").mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        centres = rng.integers(0, 256, (_CLASSES, 4, 4, 3))
        lines = ["path,label,domain,split"]
        for split, count in (("query", queries), ("gallery", 2 * queries), ("train", _TRAINED)):
            for at in range(count):
                name = at % _CLASSES
                coarse = np.clip(centres[name] + rng.integers(-60, 60, (4, 4, 3)), 0, 255).astype(np.uint8)
                path = f"images/{split}{at}.jpg"
                image = Image.fromarray(coarse).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
                image.save(home / path, quality=80)
                lines.append(f"{path},class {name},domain {name % _DOMAINS},{split}")
        (home / "labels.csv").write_text("\n".join(lines) + "\n")
        names = {"artifacts": json.dumps(str(home / "artifacts")), "table": json.dumps(str(home / "labels.csv"))}
        run_file.write_text(_RUN.format(**names))
    return run_file


def _command(command: str, run_file: Path) -> list[str]:
    return [sys.executable, "-m", "pipeline", command, str(run_file), "--quiet"]


if __name__ == "__main__":
    given = sys.argv[1:]
    main(int(given[0]) if given else 10_000, Path(given[1]) if len(given) > 1 else None)
