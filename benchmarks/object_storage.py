"""Extraction into object storage 50 ms away: killed and resumed, is it byte for byte that of a local disk, and as fast?

A server of S3 runs in this process, on loopback, and waits 50 ms before each answer. The drawn catalogue of the demo is
extracted through the command line: first every other image under at least KILLS kills with the components of its
pixels, and every object compared with the files of an uninterrupted run on a local disk; then all once to each with
EfficientNet-Lite0, for the time. With 0 kills the time alone. Prints a line a run and writes
``results/object_storage.json``.

    python -m benchmarks.object_storage [KILLS]
"""

from __future__ import annotations

import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kills import command, digests_of
from cache import FeatureStore, verify
from stages.datasets.drawn import draw_catalogue
from tests.object_servers import BUCKET, Quirks, localbucket

_LATENCY = 0.05
_RUN = """
artifacts = {artifacts}
[dataset]
kind = "table"
path = {table}
root = {root}
label = "label"
[[backbones]]
{backbone}
"""
_ROOT = json.dumps(str(Path("artifacts/demo/catalogue").absolute()))
_FAST, _SLOW = 'kind = "pca"\ndim = 64\nsize = 16', 'kind = "bundled"\nname = "efficientnet_lite0"'


def main(wanted: int) -> int:
    """Run both comparisons, with at least ``wanted`` kills (0 for the time alone); the exit status."""
    table = draw_catalogue(Path("artifacts/demo/catalogue")).absolute()
    path = Path(__file__).with_name("results") / "object_storage.json"
    rows = json.loads(path.read_text()) if path.exists() else [{}]
    row = rows[0] | {"machine": f"{platform.machine()}, {platform.system()}, {os.cpu_count()} processors"}
    row["date"], quirks = date.today().isoformat(), Quirks(latency=_LATENCY)
    with (
        tempfile.TemporaryDirectory() as scratch,
        pytest.MonkeyPatch.context() as patch,
        localbucket(Path(scratch) / "server", patch, quirks) as bucket,
    ):
        if wanted:
            header, *lines = table.read_text().splitlines(keepends=True)
            few = Path(scratch) / "few.csv"
            few.write_text(header + "".join(lines[::2]))
            row |= _under_kills(Path(scratch), bucket, few, wanted)
            print(json.dumps(row, indent=2), flush=True)
        for name, artifacts in (("local disk", f"{scratch}/timed"), ("object storage", f"{bucket}/timed")):
            run = _run_file(Path(scratch), name.replace(" ", "-"), artifacts, table, _SLOW)
            quirks.requests.clear()
            started = time.monotonic()
            subprocess.run(command(run), check=True)
            row[f"seconds to {name}"] = round(time.monotonic() - started, 1)
            print(f"{name}: {row[f'seconds to {name}']} s, {len(quirks.requests)} requests", flush=True)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps([row], indent=2) + "\n")
    print(json.dumps(row, indent=2))
    return 0 if row.get("same bytes", True) and not row.get("problems") else 1


def _under_kills(folder: Path, bucket: str, table: Path, wanted: int) -> dict[str, Any]:
    """What is found after at least ``wanted`` kills."""
    peace = _run_file(folder, "peace", str(folder / "peace"), table, _FAST)
    war = _run_file(folder, "war", f"{bucket}/war", table, _FAST)
    for run in (peace, war):  # what is read and fitted once, is: from here on an extraction is its chunks
        subprocess.run(command(run), check=True)
    for features in (folder / "peace/features", folder / "server" / BUCKET / "war/features"):
        subprocess.run(["rm", "-r", *map(str, features.glob("pca-*"))], check=True)
    subprocess.run(command(peace), check=True)
    objects = folder / "server" / BUCKET / "war"
    started = time.monotonic()
    subprocess.run(command(war), check=True)
    alone = time.monotonic() - started
    print(f"uninterrupted, object storage: {alone:.1f} s", flush=True)
    subprocess.run(["rm", "-r", *map(str, objects.glob("features/pca-*"))], check=True)
    rng, kills = random.Random(0), 0
    while kills < wanted:
        process = subprocess.Popen(command(war))
        try:
            process.wait(timeout=rng.uniform(0.4 * alone, 1.1 * alone))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            print(f"kill {kills}: {len([*objects.glob('features/*/rows/*')])} chunks committed", flush=True)
        else:  # finished between two kills: begin again, keeping the count
            subprocess.run(["rm", "-r", *map(str, objects.glob("features/pca-*"))], check=True)
    subprocess.run(command(war), check=True)
    one, other = digests_of(folder / "peace/features"), digests_of(objects / "features")
    (store,) = (folder / "peace/features").glob("*-????????")
    return {
        "work": f"1,500 images into object storage {_LATENCY * 1000:.0f} ms away under {kills} SIGKILLs, then resume",
        "objects compared": len(one),
        "same bytes": one == other,
        "problems": verify(FeatureStore.at(f"{bucket}/war/features/{store.name}")),
    }


def _run_file(folder: Path, name: str, artifacts: str, table: Path, backbone: str) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(
        _RUN.format(artifacts=json.dumps(artifacts), table=json.dumps(str(table)), root=_ROOT, backbone=backbone)
    )
    return path


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
