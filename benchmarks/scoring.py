"""Stage 3 against faiss alone, PyTorch Metric Learning and Open Metric Learning: time, and memory above the vectors.

    python -m benchmarks.scoring [--queries 5000] [--gallery 200000] [--repeats 3] [--oml ENVIRONMENT] [--large]

Each side scores mMP@5, mAP@100 and hit@1 of the same vectors in a process of its own, in turn. Open Metric Learning
pins an old NumPy and gets an environment of its own, made in ENVIRONMENT (.venv-oml) if need be. ``--large`` plans
242,000 queries against 1.4 million rows, runs some of the queries against all rows, and says what the whole would take.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measured import Row, write

_METRICS = ("mmp@5", "map@100/min", "hit@1")
_SIDES = ("faiss", "permafrost", "pml", "oml")
_OML = ("open-metric-learning==4.0.0", "omegaconf")  # which it imports and does not ask for
_MEMORY_MB = 500.0
_LARGE = (242_000, 1_400_000, 64)


def main() -> None:
    """Time the sides, in turn, and write ``results/scoring.json``; with ``--side`` be one of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--queries", type=int, default=5_000)
    parser.add_argument("--gallery", type=int, default=200_000)
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 768])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--oml", type=Path, help="the environment of Open Metric Learning; left out, it is not compared"
    )
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--share", type=float, default=0.02, help="of the queries of --large that are run")
    parser.add_argument("--side", choices=_SIDES)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(_SIDE[options.side](options.queries, options.gallery, options.dims[0])))
    elif options.large:
        _large(options)
    else:
        _compare(options)


def _compare(options: argparse.Namespace) -> None:
    sides = [side for side in _SIDES if side != "oml" or options.oml]
    pythons = dict.fromkeys(sides, sys.executable)
    if options.oml:
        pythons["oml"] = str(_environment(options.oml) / "bin/python")
    rows = []
    for dim in options.dims:
        measured: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for repeat in range(options.repeats):
            for side in sides:
                if side in ("faiss", "permafrost") or repeat == 0:  # the others take minutes
                    measured[side].append(_run(side, pythons[side], options, dim))
                    print(f"{dim} numbers, {side}: {measured[side][-1]}", flush=True)
        rows += _rows(measured, f"{options.queries:,} queries x {options.gallery:,} x {dim}")
    write("scoring", rows)


def _rows(measured: dict[str, list[dict[str, float]]], work: str) -> list[Row]:
    seconds = {side: statistics.median(item["seconds"] for item in several) for side, several in measured.items()}
    ours, flat = seconds["permafrost"], seconds["faiss"]
    limit = f"faiss alone {flat:.2f} s"
    above = max(item["mb_above"] for item in measured["permafrost"])
    rows = [
        Row(work, ours, "faiss IndexFlatIP.search(k=100) alone", flat, "s", flat / ours, 1 / 1.15, limit),
        Row(f"{work}: memory above the vectors", above, "budget", _MEMORY_MB, "MB", _MEMORY_MB / above, 1.0, "-"),
    ]
    for side, name in (("pml", "AccuracyCalculator"), ("oml", "RetrievalResults, calc_retrieval_metrics")):
        if side in seconds:
            rows.append(
                Row(work, ours, f"{side.upper()} {name}", seconds[side], "s", seconds[side] / ours, 10.0, limit)
            )
            theirs = max(item["mb_above"] for item in measured[side])
            what = f"{work}: memory above the vectors"
            rows.append(Row(what, above, f"{side.upper()} {name}", theirs, "MB", theirs / above, 1.0, "-"))
    return rows


def _run(side: str, python: str, options: argparse.Namespace, dim: int) -> dict[str, float]:
    command = [python, "-W", "ignore", "-m", "benchmarks.scoring", "--side", side, "--dims", str(dim)]
    command += ["--queries", str(options.queries), "--gallery", str(options.gallery)]
    threads = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = os.environ | threads | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _permafrost(queries: int, gallery: int, dim: int) -> dict[str, float]:
    import faiss  # noqa: F401  # loaded before the clock starts, as on every side

    from benchmarks.clustered import Task
    from benchmarks.in_memory import InMemory
    from stages.retrieval import evaluate

    task = Task.of(queries, gallery, dim)
    store = InMemory(task)
    searches, searched = store.records(1, task.query_labels), store.records(0, task.gallery_labels)
    with _Clock() as clock:
        scores = evaluate(store, queries=searches, gallery=searched, metrics=_METRICS)
    return clock.measured(0) | {item.metric: item.value for item in scores}


def _faiss(queries: int, gallery: int, dim: int) -> dict[str, float]:
    import faiss

    from benchmarks.clustered import Task

    task = Task.of(queries, gallery, dim)
    index = faiss.IndexFlatIP(dim)
    index.add(task.gallery)
    with _Clock() as clock:
        index.search(task.queries, 100)
    return clock.measured(0)


def _pml(queries: int, gallery: int, dim: int) -> dict[str, float]:
    import torch
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    from benchmarks.clustered import Task

    task = Task.of(queries, gallery, dim)
    include = ("precision_at_1", "r_precision", "mean_average_precision")
    calculator = AccuracyCalculator(include=include, k=100, device=torch.device("cpu"))
    with _Clock() as clock:
        accuracy = calculator.get_accuracy(task.queries, task.query_labels, task.gallery, task.gallery_labels)
    return clock.measured(0) | {name: float(value) for name, value in accuracy.items()}


def _oml(queries: int, gallery: int, dim: int) -> dict[str, float]:
    import torch
    from oml.functional.knn import batched_knn_qg
    from oml.functional.metrics import calc_retrieval_metrics

    from benchmarks.clustered import clustered

    classes = max(1, gallery // 10)
    vectors, labels = (torch.from_numpy(item) for item in clustered(gallery, dim, classes, 0))
    searches, wanted = (torch.from_numpy(item) for item in clustered(queries, dim, classes, 1))
    with _Clock() as clock:
        _, nearest, truth = batched_knn_qg(searches, vectors, 100, labels_query=wanted, labels_gallery=labels)
        calc_retrieval_metrics(nearest, truth, cmc_top_k=(1,), precision_top_k=(5,), map_top_k=(100,), verbose=False)
    return clock.measured(0)


_SIDE = {"faiss": _faiss, "permafrost": _permafrost, "pml": _pml, "oml": _oml}


def _large(options: argparse.Namespace) -> None:
    """Some of the queries against the whole gallery, in time and memory; the whole is so many times as much time."""
    from benchmarks.clustered import Task
    from benchmarks.in_memory import InMemory
    from stages.retrieval import evaluate

    queries, gallery, dim = _LARGE
    some = max(1, int(queries * options.share))
    task = Task.of(some, gallery, dim)
    store = InMemory(task)
    searched = store.records(0, task.gallery_labels)
    print(f"{queries:,} x {gallery:,} x {dim}: a ranking of all would be {queries * gallery * 4 / 1e12:.1f} TB")
    peaks, times = [], []
    for part in (some // 4, some):
        records = store.records(1, task.query_labels).take(range(part))
        with _Clock() as clock:
            evaluate(store, queries=records, gallery=searched, metrics=_METRICS)
        part_measured = clock.measured(0)
        peaks.append(part_measured["mb_above"])
        times.append(part_measured["seconds"])
        print(
            f"{part:,} queries: {part_measured['seconds']:.1f} s, {part_measured['mb_above']:.0f} MB above the vectors",
            flush=True,
        )
    a_query = (times[1] - times[0]) / (some - some // 4)
    whole = times[0] + a_query * (queries - some // 4)
    work = f"{queries:,} x {gallery:,} x {dim}, from {some:,} queries"
    write(
        "scoring_large",
        [
            Row(f"{work}: hours", whole / 3600, "an hour and a half", 1.5, "h", 5400 / whole, 1.0, "estimated"),
            Row(f"{work}: memory above the vectors", peaks[1], "budget", 500.0, "MB", 500 / peaks[1], 1.0, "-"),
            Row(f"{work}: four times the queries", peaks[1], "memory of a quarter", peaks[0], "MB", 1.0, 0.9, "-"),
        ],
    )


class _Clock:
    """Seconds, and how far memory rose at most above what was held when it started."""

    def __enter__(self) -> _Clock:
        self._before = _resident_mb()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._seconds = time.perf_counter() - self._started
        self._peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

    def measured(self, vectors: int) -> dict[str, float]:
        """What was measured, less so many bytes of ``vectors``."""
        return {"seconds": self._seconds, "mb_above": max(1.0, self._peak - self._before - vectors / 1e6)}


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _environment(folder: Path) -> Path:
    if not folder.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", *_OML], check=True)
    return folder


if __name__ == "__main__":
    main()
