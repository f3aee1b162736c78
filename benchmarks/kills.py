"""SIGKILL at random instants, then resume: is the store byte for byte that of an uninterrupted run?

Extracts the demo's drawn catalogue with the bundled EfficientNet-Lite0 through the command line, once in peace and once
under at least KILLS kills, and compares every file. Prints one line a run and writes ``results/kills.json``.

    python -m benchmarks.kills [KILLS]
"""

from __future__ import annotations

import hashlib
import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from cache import FeatureStore, verify
from stages.datasets.drawn import draw_catalogue

_RUN = """
artifacts = {artifacts}
[dataset]
kind = "table"
path = {table}
label = "label"
[[backbones]]
kind = "bundled"
name = "efficientnet_lite0"
"""


def main(wanted: int) -> int:
    """Run the comparison with at least ``wanted`` kills; the exit status."""
    table = draw_catalogue(Path("artifacts/demo/catalogue")).absolute()
    with tempfile.TemporaryDirectory() as scratch:
        peace, war = (_run_file(Path(scratch), name, table) for name in ("peace", "war"))
        started = time.monotonic()
        subprocess.run(command(peace), check=True)
        alone = time.monotonic() - started
        print(f"uninterrupted: {alone:.1f} s")
        rng, kills, chunks = random.Random(0), 0, []
        while kills < wanted or len(chunks) < 2:
            process = subprocess.Popen(command(war))
            try:
                process.wait(timeout=rng.uniform(1.0, 0.7 * alone))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                chunks.append(len(list(Path(scratch).glob("war/features/*/rows/*.parquet"))))
                print(f"kill {kills}: {chunks[-1]} chunks committed")
            else:  # finished between two kills: begin again, keeping the count
                if kills < wanted:
                    subprocess.run(["rm", "-r", str(Path(scratch) / "war")], check=True)
        subprocess.run(command(war), check=True)
        one, other = (digests_of(Path(scratch) / name / "features") for name in ("peace", "war"))
        (store,) = Path(scratch).glob("war/features/*-????????")
        same, problems = one == other, verify(FeatureStore.at(store))
    row = {
        "work": f"extract 3,000 images under {kills} SIGKILLs, then resume",
        "files compared": len(one),
        "same bytes": same,
        "problems": problems,
        "machine": f"{platform.machine()}, {platform.system()}",
        "date": date.today().isoformat(),
    }
    print(json.dumps(row, indent=2))
    Path(__file__).with_name("results").mkdir(exist_ok=True)
    Path(__file__).with_name("results").joinpath("kills.json").write_text(json.dumps([row], indent=2) + "\n")
    return 0 if same and not problems else 1


def _run_file(folder: Path, name: str, table: Path) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(_RUN.format(artifacts=json.dumps(str(folder / name)), table=json.dumps(str(table))))
    return path


def command(run_file: Path) -> list[str]:
    """What extracts the features of a run file."""
    return [sys.executable, "-m", "pipeline", "extract", str(run_file), "--quiet"]


def digests_of(folder: Path) -> dict[str, str]:
    """The sha256 of each file of the stores in a folder of features, by its path there."""
    files = (path for path in folder.glob("*-????????/**/*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
