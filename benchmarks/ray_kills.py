"""SIGKILL of workers, of Ray's actors and of the driver, at random instants: is the store that of one process?

640 drawn images go through the bundled EfficientNet-Lite0 in chunks of 32, once by one process in peace, then by two
workers of a Ray cluster of this machine under at least KILLS kills. A store that is finished between two kills is
compared, file by file, and begun anew. Kills come no faster than a worker starts, or starting is what they measure.
Prints a line a kill and writes ``results/ray_kills.json``.

    python -m benchmarks.ray_kills [KILLS]
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks.measured import machine
from cache import FeatureStore, verify
from stages.datasets import TableConfig
from stages.datasets.drawn import draw_catalogue
from stages.extraction import BundledConfig, Executor, LocalExecutor, RayExecutor, extract_all, load_backbone
from stages.ray_cluster import RayCluster
from stages.records import read_records

_IMAGES, _CHUNK_ROWS, _BATCH_SIZE = 640, 32, 16
_LEAST_SECONDS, _MOST_SECONDS = 4.0, 12.0


def main(wanted: int) -> int:
    """Kill at least ``wanted`` times, and compare; the exit status."""
    import ray

    table = draw_catalogue(Path("artifacts/demo/catalogue")).absolute()
    killed = {"worker": 0, "actor": 0, "driver": 0}
    compared, same, problems, rng = 0, True, list[str](), random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        peace, war = Path(scratch) / "peace", Path(scratch) / "war"
        extract(table, peace, LocalExecutor())
        expected = contents(peace)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        address = ray.get_runtime_context().gcs_address
        command = [sys.executable, "-m", "benchmarks.ray_kills", str(table), str(war), address]
        driver = None
        while sum(killed.values()) < wanted or driver is not None:
            if driver is None:
                driver = subprocess.Popen(command)
            with suppress(subprocess.TimeoutExpired):
                driver.wait(rng.uniform(_LEAST_SECONDS, _MOST_SECONDS) if sum(killed.values()) < wanted else None)
            if driver.poll() is None:
                kind = rng.choice([*killed])
                process = driver.pid if kind == "driver" else next(iter(processes(kind)), None)
                if process is None:  # none has begun
                    continue
                os.kill(process, signal.SIGKILL)
                killed[kind] += 1
                chunks = len(list(war.glob("*-????????/rows/*.parquet")))
                print(f"kill {sum(killed.values())}, a {kind}: {chunks} chunks committed", flush=True)
                if kind == "driver":
                    driver.wait()
                    driver = None
            elif driver.returncode == 0:
                (store,) = war.glob("*-????????")
                compared += 1
                same &= contents(war) == expected
                problems += verify(FeatureStore.at(store))
                print(f"finished: {'the same bytes' if same else 'OTHER BYTES'}", flush=True)
                shutil.rmtree(war)
                driver = None
            else:
                problems.append(f"the driver ended with {driver.returncode}")
                break
        ray.shutdown()
    row = {
        "work": f"extract {_IMAGES} images by two Ray workers under {sum(killed.values())} SIGKILLs",
        "killed": killed,
        "stores finished and compared": compared,
        "files of each": len(expected),
        "same bytes": same,
        "problems": problems,
        "machine": machine(),
        "date": date.today().isoformat(),
    }
    print(json.dumps(row, indent=2))
    Path(__file__).with_name("results").mkdir(exist_ok=True)
    Path(__file__).with_name("results").joinpath("ray_kills.json").write_text(json.dumps([row], indent=2) + "\n")
    return 0 if same and compared and not problems else 1


def extract(table: Path, folder: Path, executor: Executor) -> None:
    """Fill the store below ``folder`` with what it lacks of the images of ``table``."""
    records = read_records(TableConfig(path=str(table), label="label")).take(np.arange(_IMAGES))
    backbone = load_backbone(BundledConfig(name="efficientnet_lite0"))
    extract_all(records, [backbone], folder, batch_size=_BATCH_SIZE, chunk_rows=_CHUNK_ROWS, executor=executor)


def processes(kind: str) -> list[int]:
    """The processes of a ``kind`` below this one: a ``worker`` computes, an ``actor`` is its parent."""
    parents: dict[int, int] = {}
    workers: list[int] = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            number = int(folder.name)
            parents[number] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if b"stages.extraction.worker" in (folder / "cmdline").read_bytes():
                workers.append(number)

    def own(number: int) -> bool:
        return number == os.getpid() or (number in parents and own(parents[number]))

    return [number if kind == "worker" else parents[number] for number in workers if own(number)]


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of the stores below ``folder``, by name."""
    files = (path for path in folder.glob("*-????????/**/*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


if __name__ == "__main__":
    if len(sys.argv) == 4:  # the driver
        extract(Path(sys.argv[1]), Path(sys.argv[2]), RayExecutor(RayCluster(sys.argv[3], cpus=1)))
        sys.exit(0)
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
