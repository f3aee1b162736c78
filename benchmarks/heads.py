"""Stage 2 against PyTorch Metric Learning: training steps of Sub-center ArcFace on synthetic features.

    python -m benchmarks.heads [--seconds 6] [--repeats 3] [--threads 2] [--folder SCRATCH]

328,400 features of 1,152 float16 (757 MB, in memory), a linear head with dropout to 64 numbers, k = 3 subcenters, Adam
with PyTorch's fused step and weight decay on both sides, the same versions. Every figure is measured in a process of
its own, the sides in turn, REPEATS times; the table has the medians. A step is all of it: rows gathered, head, loss,
backward, optimiser. Memory is the peak above what the process held once its features and libraries were loaded.

Nothing else may run: beside a busy process PyTorch's own threads wait for each other, spinning, and the other side gets
many times slower than it is. The load is printed at the beginning; with --threads 1 it matters little.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.measured import Row, write

ROWS, DIM, EMBEDDING, SUBCENTERS, SHARE = 328_400, 1152, 64, 3, 0.1
MANY, FEW = 34_800, 1_000
BATCHES = (128, 1024)
_FEATURES = "features.npy"

Step = Callable[[np.ndarray], float]


class Measured(NamedTuple):
    """Of one process: samples a second, and the most memory (MB) above what it held before the first step."""

    rate: float
    peak: float


def main() -> None:
    """Run one measurement (``--side``), or all of them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--folder", type=Path, help="where the features are written, 757 MB; a temporary one by default"
    )
    parser.add_argument("--side", choices=sorted(SIDES))
    parser.add_argument("--classes", type=int, default=MANY)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epoch", action="store_true", help="one epoch, however long it takes")
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        arguments.folder = arguments.folder or Path(scratch)
        draw(arguments.folder / _FEATURES)
        write("heads", side_by_side(arguments))


def draw(path: Path) -> None:
    """Write the synthetic features (N, D) float16."""
    if path.exists():
        return
    rng = np.random.default_rng(0)
    features = np.lib.format.open_memmap(path, "w+", np.float16, (ROWS, DIM))
    for low in range(0, ROWS, 8192):
        features[low : low + 8192] = rng.standard_normal(features[low : low + 8192].shape, np.float32)


# One side, in a process of its own


def measure(arguments: argparse.Namespace) -> Measured | float:
    """What the side asked for reaches; of the machine, its one figure."""
    import torch

    from stages.training.worker_threads import one_thread_each

    torch.set_num_threads(arguments.threads)
    side = SIDES[arguments.side]
    if side in (matrix_rate, matrix_rate_bfloat16, memory_rate):
        return side(arguments)
    features = np.load(arguments.folder / _FEATURES)
    labels = np.random.default_rng(1).integers(arguments.classes, size=ROWS)
    side(features[:2], np.arange(2), 2)(np.arange(2))  # libraries are loaded
    before = _resident("VmRSS")
    step = side(features, labels, arguments.classes)
    order = np.random.default_rng(2).permutation(ROWS)
    size, steps = arguments.batch, 0
    most = math.inf if not arguments.epoch else -(-ROWS // size)
    with nullcontext() if side is peer else one_thread_each():  # as in the training loop
        for warm in range(3):
            step(order[warm * size : (warm + 1) * size])
        started = time.perf_counter()
        while steps < most and (arguments.epoch or steps < 3 or time.perf_counter() - started < arguments.seconds):
            low = steps * size % ROWS
            assert math.isfinite(step(order[low : low + size]))
            steps += 1
    rate = min(steps * size, ROWS if arguments.epoch else steps * size) / (time.perf_counter() - started)
    return Measured(rate, _resident("VmHWM") - before)


def peer(features: np.ndarray, labels: np.ndarray, classes: int) -> Step:
    """PyTorch Metric Learning's SubCenterArcFaceLoss behind the same head."""
    import torch
    from pytorch_metric_learning.losses import SubCenterArcFaceLoss

    loss = SubCenterArcFaceLoss(
        num_classes=classes, embedding_size=EMBEDDING, margin=math.degrees(0.5), scale=30, sub_centers=SUBCENTERS
    )
    head = torch.nn.Sequential(torch.nn.Dropout(0.2), torch.nn.Linear(DIM, EMBEDDING))
    optimizer = torch.optim.Adam([*head.parameters(), *loss.parameters()], 1e-3, weight_decay=1e-4, fused=True)

    def step(rows: np.ndarray) -> float:
        optimizer.zero_grad()
        batch = torch.from_numpy(np.take(features, rows, axis=0, mode="clip")).float()
        value = loss(head(batch), torch.from_numpy(labels[rows]))
        value.backward()
        optimizer.step()
        return value.item()

    return step


def ours(features: np.ndarray, labels: np.ndarray, classes: int, **settings: object) -> Step:
    """The parts of ``train_head``, put together as its loop does."""
    import torch

    from stages.device import keep_freed_memory
    from stages.training import ArcFaceConfig, InputsConfig, LinearHeadConfig, OptimizerConfig
    from stages.training.rows.labelled_rows import gathered

    keep_freed_memory()
    generator = torch.Generator().manual_seed(0)
    config = ArcFaceConfig(subcenters=SUBCENTERS, margin_rad=0.5, scale=30.0, **settings)
    loss = config.build(EMBEDDING, torch.from_numpy(np.bincount(labels, minlength=classes)), generator)
    plain = InputsConfig(center=False, rescale="none")
    head = LinearHeadConfig(dim=EMBEDDING, dropout=0.2, inputs=plain).build([DIM], generator)
    optimizer = OptimizerConfig(weight_decay=1e-4).build(head.parameters(), loss)

    def step(rows: np.ndarray) -> float:
        optimizer.zero_grad()
        value = loss(
            head.project(torch.from_numpy(gathered(features, rows)), generator), torch.from_numpy(labels[rows])
        )
        value.backward()
        optimizer.step(1e-3)
        return value.item()

    return step


def exact(features: np.ndarray, labels: np.ndarray, classes: int) -> Step:
    """All classes in every step, float32."""
    return ours(features, labels, classes)


def exact_bfloat16(features: np.ndarray, labels: np.ndarray, classes: int) -> Step:
    """All classes, products of bfloat16."""
    return ours(features, labels, classes, precision="bfloat16")


def sampled(features: np.ndarray, labels: np.ndarray, classes: int) -> Step:
    """The batch's own classes and a tenth of all, float32."""
    from stages.training.losses.kinds import SampledConfig

    return ours(features, labels, classes, sampled=SampledConfig(share=SHARE))


def sampled_bfloat16(features: np.ndarray, labels: np.ndarray, classes: int) -> Step:
    """As :func:`sampled`, products of bfloat16."""
    from stages.training.losses.kinds import SampledConfig

    return ours(features, labels, classes, sampled=SampledConfig(share=SHARE), precision="bfloat16")


def matrix_rate(_: argparse.Namespace) -> float:
    """GFLOP/s of a large float32 matrix product on as many threads."""
    from benchmarks import extraction

    return extraction.matrix_rate(argparse.Namespace(precision="float32", device="cpu"))


def matrix_rate_bfloat16(_: argparse.Namespace) -> float:
    """GFLOP/s of a large bfloat16 one."""
    from benchmarks import extraction

    return extraction.matrix_rate(argparse.Namespace(precision="bfloat16", device="cpu"))


def memory_rate(_: argparse.Namespace) -> float:
    """GB/s of copying 512 MB on as many threads, read and written."""
    import torch

    source = torch.ones(1 << 27)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(4):
        started = time.perf_counter()
        target.copy_(source)
        best = max(best, 2 * source.numel() * 4 / (time.perf_counter() - started) / 1e9)
    return best


SIDES: dict[str, Callable[..., object]] = {
    side.__name__: side
    for side in (
        peer,
        exact,
        exact_bfloat16,
        sampled,
        sampled_bfloat16,
        matrix_rate,
        matrix_rate_bfloat16,
        memory_rate,
    )
}


def _resident(name: str) -> float:
    """A line of this process's memory, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


# Side by side


def side_by_side(arguments: argparse.Namespace) -> list[Row]:
    """Every comparison, the sides in turn."""
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors", flush=True)
    machine = {name: alone(arguments, name) for name in ("matrix_rate", "matrix_rate_bfloat16", "memory_rate")}
    print({name: round(value) for name, value in machine.items()}, flush=True)
    rows: list[Row] = []
    for classes, names in (
        (MANY, ("exact", "exact_bfloat16", "sampled", "sampled_bfloat16")),
        (FEW, ("exact", "exact_bfloat16")),
    ):
        for batch in BATCHES:
            medians_of = medians(arguments, ("peer", *names), classes=classes, batch=batch)
            for name in names:
                target = 15.0 if name.startswith("sampled") else 3.0 if classes == MANY else 2.0
                rows.append(
                    Row(
                        f"{name.replace('_', ', ')}, {classes:,} classes, batch {batch:,}, {arguments.threads} threads",
                        medians_of[name].rate,
                        "PML SubCenterArcFaceLoss",
                        medians_of["peer"].rate,
                        "rows/s",
                        medians_of[name].rate / medians_of["peer"].rate,
                        target,
                        limit(name, classes, batch, machine),
                    )
                )
                if classes == MANY and batch == max(BATCHES) and "bfloat16" not in name:
                    work = f"{name}: peak of memory, {classes:,} classes, batch {batch:,}"
                    ratio = medians_of["peer"].peak / medians_of[name].peak
                    table = classes * SUBCENTERS * EMBEDDING * 4 * 4 / 2**20
                    floor = f"weights, gradient and two moments of the table are {table:.0f} MB"
                    rows.append(
                        Row(work, medians_of[name].peak, "PML", medians_of["peer"].peak, "MB", ratio, 4.0, floor)
                    )
    seconds = ROWS / Measured(*alone(arguments, "sampled", epoch=True)).rate
    rows.append(
        Row(
            f"one epoch of {ROWS:,} rows, sampled, batch 128",
            seconds,
            "a minute",
            60.0,
            "s",
            60 / seconds,
            1.0,
            limit("sampled", MANY, 128, machine),
        )
    )
    return rows


def limit(name: str, classes: int, batch: int, machine: dict[str, float]) -> str:
    """What the machine's matrix products and memory allow, were they used without a pause, in words.

    A step has four products of the batch with every prototype it looks at (cosines twice, two gradients) and three of
    the head; it reads the features, and the prototypes twice, writes their gradient, and its Adam step reads four
    tables and writes three.
    """
    seen = classes if name.startswith("exact") else len_sampled(classes, batch)
    vectors = seen * SUBCENTERS * EMBEDDING
    products = 4 * 2 * batch * vectors / (machine["matrix_rate" + ("_bfloat16" if "bfloat16" in name else "")] * 1e9)
    head = 2 * 2 * batch * DIM * EMBEDDING / (machine["matrix_rate"] * 1e9)
    moved = (10 * vectors * 4 + batch * DIM * 2) / (machine["memory_rate"] * 1e9)
    rate = batch / (products + head + moved)
    return (
        f"{rate:,.0f} rows/s: {1e3 * (products + head):.1f} ms of products, {1e3 * moved:.1f} ms of memory a step of "
        f"{batch:,}"
    )


def len_sampled(classes: int, batch: int) -> int:
    """How many classes a sampled step looks at, about."""
    return round(classes * SHARE + batch * (1 - SHARE))


def medians(arguments: argparse.Namespace, names: tuple[str, ...], **changes: int) -> dict[str, Measured]:
    """The median of each side over the repeats, taken in turn."""
    medians_of: dict[str, list[Measured]] = {name: [] for name in names}
    for _ in range(arguments.repeats):
        for name in names:
            medians_of[name].append(Measured(*alone(arguments, name, **changes)))
    print({name: [round(one.rate) for one in all_of] for name, all_of in medians_of.items()}, changes, flush=True)
    return {
        name: Measured(*(statistics.median(values) for values in zip(*all_of, strict=True)))
        for name, all_of in medians_of.items()
    }


def alone(arguments: argparse.Namespace, side: str, *, epoch: bool = False, **changes: int):  # type: ignore[no-untyped-def]
    """One measurement in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.heads", "--side", side, "--folder", str(arguments.folder)]
    command += ["--seconds", str(arguments.seconds), "--threads", str(arguments.threads)]
    command += ["--epoch"] if epoch else []
    for key, value in changes.items():
        command += [f"--{key}", str(value)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
