"""Sixteen small heads trained in one pass against one head trained alone, on the same features.

Features are synthetic: N = 4,096 of 1,280 numbers, float16, 98 classes; heads of 64 numbers, batches of 128, ArcFace,
each with a margin, scale and learning rate of its own. What does not grow with the epochs (reading the features, the
first weights) is taken out: a side is timed for some epochs and for three times as many. Every figure is a rate
measured in a process of its own, the sides in turn, REPEATS times; the table has the medians. With one thread the clock
is that of the processor, so that what else runs on the machine counts for little.

    python -m benchmarks.stack [--repeats 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from benchmarks.measured import Row, write

ROWS, DIM, CLASSES, SIZE, BATCH, EPOCHS = 4096, 1280, 98, 64, 128, 4
HEADS = 16
STEPS = ROWS // BATCH
PRODUCTS = 2 * 2 * BATCH * DIM * SIZE + 3 * 2 * BATCH * SIZE * CLASSES
"""Operations that a head needs a step: two products with the map, three with the prototypes."""


def main() -> None:
    """Run one measurement (``--measure``), or all of them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", choices=sorted(MEASURES))
    arguments = parser.parse_args()
    if arguments.measure:
        import torch

        torch.set_num_threads(arguments.threads)
        print(json.dumps(MEASURES[arguments.measure]()))
        return
    write("stack", side_by_side(arguments))


def side_by_side(arguments: argparse.Namespace) -> list[Row]:
    """Every measurement in turn, ``repeats`` times."""
    rates_of: dict[str, list[float]] = {name: [] for name in MEASURES}
    for _ in range(arguments.repeats):
        for name, rates in rates_of.items():
            command = [sys.executable, "-m", "benchmarks.stack", "--measure", name, "--threads", str(arguments.threads)]
            rates.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    middle = {name: statistics.median(rates) for name, rates in rates_of.items()}
    where = f"{arguments.threads} threads"
    limit = f"products alone {middle['matrix_rate'] * 1e9 / PRODUCTS:,.0f} at {middle['matrix_rate']:.0f} GFLOP/s"
    sides = (
        ("stack", f"{HEADS} recipes with one seed in a stack, {where}: heads x steps", "alone", "one by train_head"),
        ("stack_of_seeds", f"4 recipes with 4 seeds in a stack, {where}: heads x steps", "alone", "one by train_head"),
        (
            "stack",
            f"{HEADS} recipes with one seed in a stack, {where}: heads x steps",
            "stack_of_one",
            "a stack of one",
        ),
    )
    return [
        Row(work, middle[ours], against, middle[other], "1/s", middle[ours] / middle[other], HEADS / 4, limit)
        for ours, work, other, against in sides
    ]


# Measurements, each in a process of its own


def alone() -> float:
    """Steps a second of ``train_head``."""
    from stages.training import train_head

    (recipe,) = _recipes(1, EPOCHS)
    with tempfile.TemporaryDirectory() as scratch:
        store, records = _drawn(scratch)

        def train(epochs: int) -> None:
            train_head(store, records, replace(recipe, training=replace(recipe.training, epochs=epochs)))

        return _steps_a_second(train)


def stack() -> float:
    """Heads times steps a second of :data:`HEADS` recipes with one seed."""
    return _stacked(HEADS, 1)


def stack_of_seeds() -> float:
    """The same of 4 recipes with 4 seeds: each seed has batches and dropout of its own."""
    return _stacked(HEADS // 4, 4)


def stack_of_one() -> float:
    """The same of a single head."""
    return _stacked(1, 1)


def matrix_rate() -> float:
    """GFLOP/s of the largest product of the stack, a batch with all maps side by side."""
    import torch

    batch, maps = torch.randn(BATCH, DIM), torch.randn(HEADS * SIZE, DIM)
    best = 0.0
    for _ in range(50):
        started = time.perf_counter()
        batch @ maps.T
        best = max(best, 2 * BATCH * DIM * HEADS * SIZE / (time.perf_counter() - started) / 1e9)
    return best


def _stacked(recipes: int, seeds: int) -> float:
    from stages.training.sweep.batched_heads import train_batched_heads

    with tempfile.TemporaryDirectory() as scratch:
        store, records = _drawn(scratch)

        def train(epochs: int) -> None:
            list(train_batched_heads(store, records, _recipes(recipes, epochs), range(seeds)))

        return recipes * seeds * _steps_a_second(train)


def _steps_a_second(train: Callable[[int], None]) -> float:
    """The rate of the epochs between the first EPOCHS and 3 * EPOCHS."""
    import torch

    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds = []
    for epochs in (1, EPOCHS, 3 * EPOCHS):  # the first warms up
        started = clock()
        train(epochs)
        seconds.append(clock() - started)
    return 2 * EPOCHS * STEPS / (seconds[2] - seconds[1])


def _recipes(count: int, epochs: int):  # type: ignore[no-untyped-def]  # the heavy imports stay inside
    from stages.training import ArcFaceConfig, LinearHeadConfig, OptimizerConfig, TrainingConfig
    from stages.training.recipe import HeadRecipe

    return [
        HeadRecipe(
            LinearHeadConfig(dim=SIZE),
            ArcFaceConfig(margin_rad=0.1 + 0.02 * place, scale=8.0 + place),
            optimizer=OptimizerConfig(lr=1e-3 * (1 + 0.1 * place)),
            training=TrainingConfig(epochs=epochs, batch_size=BATCH, holdout=0.0),
        )
        for place in range(count)
    ]


def _drawn(scratch: str):  # type: ignore[no-untyped-def]
    """A store with features, and the records with labels."""
    import pyarrow as pa

    from cache import FeatureStore, Identity, Provenance, RowOutcome, StoreWriter, digest_bytes
    from stages.records import Records

    rng, labels = np.random.default_rng(0), np.arange(ROWS) % CLASSES
    centres = rng.normal(size=(CLASSES, DIM)).astype(np.float32)
    features = (centres[labels] + 2 * rng.normal(size=(ROWS, DIM)).astype(np.float32)).astype(np.float16)
    digests = [digest_bytes(str(row).encode()) for row in range(ROWS)]
    provenance = Provenance("cpu", {})
    store = FeatureStore.open(scratch, "drawn", Identity({"backbone": "drawn"}), dim=DIM, provenance=provenance)
    places = dict(zip(digests, range(ROWS), strict=True))
    with StoreWriter(store) as writer:
        for chunk in writer.plan(digests).chunks:
            rows = [places[digest] for digest in chunk.digests]
            writer.commit(chunk, features[rows], [RowOutcome()] * len(rows), provenance)
    table = pa.table(
        {
            "key": [str(row) for row in range(ROWS)],
            "digest": pa.array(digests, pa.binary(32)),
            "label": [f"{label:03}" for label in labels],
            "domain": pa.nulls(ROWS, pa.string()),
        }
    )
    return store, Records(table, {})


MEASURES: dict[str, Callable[[], float]] = {
    measure.__name__: measure for measure in (alone, stack, stack_of_seeds, stack_of_one, matrix_rate)
}

if __name__ == "__main__":
    main()
