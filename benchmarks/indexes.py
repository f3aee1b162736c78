"""``auto`` against autofaiss: the task's metric, the time to build, and the time of a query, at the same budgets.

    python -m benchmarks.indexes [ENVIRONMENT] [--rows 100000 1000000] [--ms 10]

Both are given the same vectors (64 numbers, ten of a class) and the same time for a query. autofaiss pins an old NumPy
and gets an environment of its own, made in ENVIRONMENT (.venv-autofaiss) if need be. Its index is read by faiss here,
with the parameters that it chose, and both are measured by the same code. What ``auto`` measures to choose is in its
time to build, as autofaiss's own tuning is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measured import Row, write

_DIM, _EACH, _QUERIES, _METRIC = 64, 10, 1000, "mmp@5"
_PACKAGES = ("autofaiss==2.18.0", "pyarrow<20")  # it pins a NumPy that later ones refuse
_THEIRS = """
import json, sys, time
import numpy as np
from autofaiss import build_index
vectors, path, ms, threads = np.load(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
started = time.perf_counter()
index, said = build_index(
    vectors, index_path=path, index_infos_path=path + ".json", metric_type="ip", max_index_query_time_ms=ms,
    max_index_memory_usage="16G", current_memory_available="20G", nb_cores=threads, verbose=40,
)
print(json.dumps({"seconds": time.perf_counter() - started, "key": str(said.get("index_key")),
                  "param": str(said.get("index_param"))}))
"""


def main() -> None:
    """Compare at each size, and write ``results/indexes.json``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("environment", type=Path, nargs="?", default=Path(".venv-autofaiss"))
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--ms", type=float, default=10.0, help="that a query may take; autofaiss's own default is 10")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if not options.environment.exists():
        subprocess.run([sys.executable, "-m", "venv", options.environment], check=True)
        subprocess.run([options.environment / "bin/pip", "install", "--quiet", *_PACKAGES], check=True)
    write("indexes", [row for count in options.rows for row in _compare(options, count)])


def _compare(options: argparse.Namespace, count: int) -> list[Row]:
    import faiss

    from benchmarks.clustered import clustered
    from stages.ranking import find_metric, unit_length
    from stages.ranking.relevance import ByClass, Judgement
    from stages.retrieval import AutoIndexConfig, Evidence, GalleryIndex, choose_index
    from stages.retrieval.indexes.auto import milliseconds, value_of

    faiss.omp_set_num_threads(options.threads)
    classes = count // _EACH
    vectors, labels = clustered(count, _DIM, classes, 0)
    vectors = unit_length(vectors)
    queries, wanted = clustered(_QUERIES, _DIM, classes, 1)
    evidence = Evidence(unit_length(queries), Judgement(ByClass(wanted, labels)), np.full(_QUERIES, -1))
    tuned = Evidence.from_gallery(vectors, labels)  # what auto chooses by is not what both are judged by
    started = time.perf_counter()
    choice = choose_index(
        vectors, [str(row) for row in range(count)], "", AutoIndexConfig(ms=options.ms), evidence=tuned
    )
    seconds = time.perf_counter() - started
    for item in choice.tried:
        print(
            f"auto: {item.name}, {item.rows:,} rows, {item.ms:.3f} ms, loses {item.loss:+.4f}: {item.verdict}",
            flush=True,
        )
    with tempfile.TemporaryDirectory() as scratch:
        np.save(f"{scratch}/vectors.npy", vectors)
        command = [options.environment / "bin/python", "-c", _THEIRS, f"{scratch}/vectors.npy", f"{scratch}/index"]
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": ""}
        done = subprocess.run(
            [*command, str(options.ms), str(options.threads)],
            check=True,
            capture_output=True,
            text=True,
            env=environment,
        )
        peer_result = json.loads(done.stdout.splitlines()[-1])
        peer = faiss.read_index(f"{scratch}/index")
    faiss.ParameterSpace().set_index_parameters(peer, peer_result["param"])
    theirs = GalleryIndex(peer, choice.index.keys, "", choice.index.config)
    metric = find_metric(_METRIC)
    values = [value_of(index, evidence, metric) for index in (choice.index, theirs)]
    times = milliseconds((choice.index, theirs), evidence, 5, 1)
    batches = milliseconds((choice.index, theirs), evidence, 5, _QUERIES)
    name = f"autofaiss {peer_result['key']} {peer_result['param']}"
    work = f"{count:,} x {_DIM}, {choice.tried[-1].name}"
    own = choice.tried[-1].build_s
    return [
        Row(f"{work}: {_METRIC}", values[0], name, values[1], "", values[0] / values[1], 1.0, "-"),
        Row(
            f"{work}: choose and build",
            seconds,
            name,
            peer_result["seconds"],
            "s",
            peer_result["seconds"] / seconds,
            5.0,
            f"{own:.1f} s",
        ),
        Row(f"{work}: a query alone", times[0], name, times[1], "ms", times[1] / times[0], 1.0, "-"),
        Row(f"{work}: a query of 1,000", batches[0], name, batches[1], "ms", batches[1] / batches[0], 1.0, "-"),
    ]


if __name__ == "__main__":
    main()
