"""Stage 2 against PyTorch Metric Learning: training steps of losses on pairs and proxies on synthetic features.

    python -m benchmarks.pairs [--seconds 3] [--repeats 3] [--threads 2]

32,768 features of 1,152 float16 in 1,024 classes, a linear head with dropout to 64 numbers, batches of classes x 4
images, Adam with PyTorch's fused step on both sides, the same versions. A step is all of it: rows gathered, head,
miner, loss, backward, optimiser. Every figure is measured in a process of its own, the sides in turn, REPEATS times;
the table has the medians.

At a batch of 1,024 the library's own Smooth-AP needs tens of gigabytes: it is not compared.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np

from benchmarks.measured import Row, write

ROWS, DIM, EMBEDDING, CLASSES, IMAGES = 32_768, 1152, 64, 1_024, 4
BATCH, MEMORY, BATCH_WITH_MEMORY = 1_024, 50_000, 128

Loss = Callable[[Any, Any], Any]
Step = Callable[[np.ndarray], float]


def main() -> None:
    """Run one measurement (``--side``), or all of them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", choices=("ours", "peer"))
    parser.add_argument("--work", choices=sorted(WORK))
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments)))
        return
    write("pairs", side_by_side(arguments))


# One side, in a process of its own


def measure(arguments: argparse.Namespace) -> float:
    """Rows a second."""
    import torch

    from stages.training.worker_threads import one_thread_each

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    labels = np.arange(ROWS) % CLASSES
    features = rng.standard_normal((ROWS, DIM), np.float32)
    features[:, :64] += 2 * rng.standard_normal((CLASSES, 64), np.float32)[labels]
    features = features.astype(np.float16)
    make_ours, make_peer, memory = WORK[arguments.work]
    size = BATCH_WITH_MEMORY if memory else BATCH
    if arguments.side == "peer":
        step, threads = peer(features, labels, make_peer, memory), nullcontext()
    else:
        step, in_threads = ours(features, labels, make_ours, memory)
        threads = one_thread_each() if in_threads else nullcontext()
    batches = [_batch(rng, size) for _ in range(64)]
    steps = 0
    with threads:  # as in the training loop
        for batch in batches[:1]:
            step(batch)
        started = time.perf_counter()
        while steps < 2 or time.perf_counter() - started < arguments.seconds:
            assert math.isfinite(step(batches[steps % len(batches)]))
            steps += 1
    return steps * size / (time.perf_counter() - started)


def _batch(rng: np.random.Generator, size: int) -> np.ndarray:
    """Rows of ``size`` / 4 classes, 4 of each, those of a class together."""
    classes = rng.permutation(CLASSES)[: size // IMAGES]
    images = np.stack([rng.permutation(ROWS // CLASSES)[:IMAGES] for _ in classes])
    return (images * CLASSES + classes[:, None]).reshape(-1)


def peer(features: np.ndarray, labels: np.ndarray, make: Callable[[], Any], memory: int) -> Step:
    """The library's loss and miner behind a head."""
    import torch
    from pytorch_metric_learning.losses import CrossBatchMemory

    made = make()
    loss, miner = made if isinstance(made, tuple) else (made, None)
    head = torch.nn.Sequential(torch.nn.Dropout(0.2), torch.nn.Linear(DIM, EMBEDDING))
    if memory:
        loss = CrossBatchMemory(loss, EMBEDDING, memory, miner)
        loss.embedding_memory, loss.label_memory = remembered(head, features, labels, memory)
        loss.has_been_filled, miner = True, None
    optimizer = torch.optim.Adam([*head.parameters(), *loss.parameters()], 1e-3, weight_decay=1e-4, fused=True)

    def step(rows: np.ndarray) -> float:
        optimizer.zero_grad()
        batch = torch.from_numpy(np.take(features, rows, axis=0, mode="clip")).float()
        embeddings, targets = head(batch), torch.from_numpy(labels[rows])
        value = loss(embeddings, targets) if miner is None else loss(embeddings, targets, miner(embeddings, targets))
        value.backward()
        optimizer.step()
        return float(value.detach())

    return step


def ours(features: np.ndarray, labels: np.ndarray, make: Callable[[], Any], memory: int) -> tuple[Step, bool]:
    """The parts of ``train_head``, put together as its loop does, and whether it uses worker threads."""
    import torch

    from stages.device import keep_freed_memory
    from stages.training import InputsConfig, LinearHeadConfig, OptimizerConfig
    from stages.training.rows.labelled_rows import gathered

    keep_freed_memory()
    generator = torch.Generator().manual_seed(0)
    loss = make().build(EMBEDDING, torch.from_numpy(np.bincount(labels)), generator)
    plain = InputsConfig(center=False, rescale="none")
    head = LinearHeadConfig(dim=EMBEDDING, dropout=0.2, inputs=plain).build([DIM], generator)
    if memory:
        known = remembered(lambda rows: head.project(rows, generator), features, labels, memory)
        loss.memory.store(*known, torch.arange(memory) + ROWS)
    optimizer = OptimizerConfig(weight_decay=1e-4).build(head.parameters(), loss)

    def step(rows: np.ndarray) -> float:
        optimizer.zero_grad()
        embeddings = head.project(torch.from_numpy(gathered(features, rows)), generator)
        value = loss(embeddings, torch.from_numpy(labels[rows]), torch.from_numpy(rows))
        value.backward()
        optimizer.step(1e-3)
        loss.after_step()
        return float(value.detach())

    return step, loss.uses_worker_threads


def remembered(head: Callable[[Any], Any], features: np.ndarray, labels: np.ndarray, size: int) -> tuple[Any, Any]:
    """A full memory: what ``head`` makes of ``size`` rows, of unit length, and their labels."""
    import torch

    rows = np.random.default_rng(1).integers(ROWS, size=size)
    with torch.no_grad():
        parts = [head(torch.from_numpy(features[some]).float()) for some in np.array_split(rows, 16)]
        return torch.nn.functional.normalize(torch.cat(parts)), torch.from_numpy(labels[rows])


def _pairs() -> Any:
    from stages.training.pairs import kinds

    return kinds


def _losses() -> Any:
    from pytorch_metric_learning import losses

    return losses


def _miners() -> Any:
    from pytorch_metric_learning import miners

    return miners


# What is compared: our loss, the library's loss or its loss and miner, and the size of the memory.
WORK: dict[str, tuple[Callable[[], Any], Callable[[], Any], int]] = {
    "contrastive, all pairs": (
        lambda: _pairs().ContrastiveConfig(margin_dist=1.0),
        lambda: _losses().ContrastiveLoss(0, 1.0),
        0,
    ),
    "triplet, hard": (
        lambda: _pairs().TripletConfig(miner=_pairs().HardConfig()),
        lambda: (_losses().TripletMarginLoss(0.2), _miners().BatchHardMiner()),
        0,
    ),
    "triplet, easy positives": (
        lambda: _pairs().TripletConfig(miner=_pairs().EasyPositivesConfig(negatives="hard")),
        lambda: (_losses().TripletMarginLoss(0.2), _miners().BatchEasyHardMiner("easy", "hard")),
        0,
    ),
    "triplet, semi-hard": (
        lambda: _pairs().TripletConfig(miner=_pairs().SemiHardConfig()),
        lambda: (_losses().TripletMarginLoss(0.2), _miners().TripletMarginMiner(0.2, "semihard")),
        0,
    ),
    "triplet, all": (
        lambda: _pairs().TripletConfig(miner=_pairs().AllConfig()),
        lambda: _losses().TripletMarginLoss(0.2),
        0,
    ),
    "margin, distance-weighted": (
        lambda: _pairs().MarginConfig(),
        lambda: (_losses().MarginLoss(0.2, learn_beta=True), _miners().DistanceWeightedMiner()),
        0,
    ),
    "multi-similarity": (
        lambda: _pairs().MultiSimilarityConfig(),
        lambda: (_losses().MultiSimilarityLoss(), _miners().MultiSimilarityMiner(0.1)),
        0,
    ),
    "SupCon": (lambda: _pairs().SupConConfig(), lambda: _losses().SupConLoss(), 0),
    "Proxy-Anchor": (
        lambda: _pairs().ProxyAnchorConfig(scale=32.0),
        lambda: _losses().ProxyAnchorLoss(CLASSES, EMBEDDING),
        0,
    ),
    "ProxyNCA++": (
        lambda: _pairs().ProxyNcaConfig(),
        lambda: _losses().ProxyNCALoss(CLASSES, EMBEDDING, softmax_scale=9),
        0,
    ),
    "SoftTriple, 2 subcenters": (
        lambda: _pairs().SoftTripleConfig(subcenters=2),
        lambda: _losses().SoftTripleLoss(CLASSES, EMBEDDING, 2),
        0,
    ),
    "memory: contrastive": (
        lambda: _pairs().ContrastiveConfig(margin_dist=1.0, memory=MEMORY),
        lambda: _losses().ContrastiveLoss(0, 1.0),
        MEMORY,
    ),
    "memory: multi-similarity": (
        lambda: _pairs().MultiSimilarityConfig(memory=MEMORY),
        lambda: (_losses().MultiSimilarityLoss(), _miners().MultiSimilarityMiner(0.1)),
        MEMORY,
    ),
    "memory: SupCon": (
        lambda: _pairs().SupConConfig(memory=MEMORY),
        lambda: _losses().SupConLoss(),
        MEMORY,
    ),
}


# Side by side


def side_by_side(arguments: argparse.Namespace) -> list[Row]:
    """Every comparison, the sides in turn."""
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors", flush=True)
    rows = []
    for work, (_, _, memory) in WORK.items():
        rates_of: dict[str, list[float]] = {"ours": [], "peer": []}
        for _ in range(arguments.repeats):
            for side, rates in rates_of.items():
                rates.append(alone(arguments, side, work))
        print(work, {side: [round(rate) for rate in rates] for side, rates in rates_of.items()}, flush=True)
        mine, theirs = (statistics.median(rates) for rates in rates_of.values())
        batch = BATCH_WITH_MEMORY if memory else BATCH
        what = f"{work}{f' of {memory:,}' if memory else ''}, batch {batch:,}, {arguments.threads} threads"
        against = "PML CrossBatchMemory" if memory else "PML, its own loop"
        rows.append(Row(what, mine, against, theirs, "rows/s", mine / theirs, 3.0 if memory else 1.0, ""))
    return rows


def alone(arguments: argparse.Namespace, side: str, work: str) -> float:
    """One measurement in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.pairs", "--side", side, "--work", work]
    command += ["--seconds", str(arguments.seconds), "--threads", str(arguments.threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
