"""Heads that learn attributes: how long they take to learn 3,000 images.

    python -m benchmarks.attributes [--repeats 3] [--threads 2]

Features are synthetic: 3,000 of 1,280 numbers, float16, that tell seven attributes of 2 to 40 values more or less, with
names of six words. The network is trained until held-out images are found no better for three epochs, then again on
all images up to the best; what is counted is all of ``train_head``. Beside it a plain PyTorch loop makes as many steps
of the same network: a linear layer and one for each attribute, Adam's fused step, tensors in memory, nothing validated.
Every figure is measured in a process of its own, the sides in turn, REPEATS times; the table has the medians. With one
thread the clock is that of the processor, so that what else runs on the machine counts for little.
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
from typing import Any

import numpy as np

from benchmarks.measured import Row, write

ROWS, DIM, BATCH, LIMIT_S = 3_000, 1280, 64, 20.0
VALUES = (2, 3, 4, 7, 9, 25, 40)
LATENT, WORDS, LENGTH = 48, 200, 6

Measured = tuple[float, float]
"""Seconds, and how many steps were made; 0 of a closed form."""


def main() -> None:
    """Run one measurement (``--measure``), or all of them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", choices=sorted(MEASURES))
    parser.add_argument("--steps", type=int, default=0, help="of the plain loop")
    arguments = parser.parse_args()
    if arguments.measure:
        import torch

        torch.set_num_threads(arguments.threads)
        print(json.dumps(MEASURES[arguments.measure](arguments.steps)))
        return
    write("attributes", side_by_side(arguments))


def side_by_side(arguments: argparse.Namespace) -> list[Row]:
    """Every measurement in turn, ``repeats`` times."""
    measurements: dict[str, list[Measured]] = {name: [] for name in MEASURES}
    for _ in range(arguments.repeats):
        steps = 0
        for name, measured in measurements.items():
            command = [sys.executable, "-m", "benchmarks.attributes", "--measure", name, "--steps", str(steps)]
            command += ["--threads", str(arguments.threads)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            measured.append(json.loads(done.stdout.splitlines()[-1]))
            steps = int(measurements["network"][-1][1])
    seconds = {name: statistics.median(one[0] for one in measured) for name, measured in measurements.items()}
    steps = int(statistics.median(one[1] for one in measurements["network"]))
    print({name: [round(one[0], 1) for one in measured] for name, measured in measurements.items()}, flush=True)
    where = f"{ROWS:,} images, {arguments.threads} threads"
    comparisons = (
        ("network", "multilabel, 7 attributes, to convergence", f"{steps:,} steps with those of the second training"),
        ("network_and_words", "multilabel, attributes and words (GRU), to convergence", ""),
        ("posterior", "posterior, 64 dimensions, 24 points of its grid", ""),
    )
    rows = [
        Row(f"{what}, {where}", seconds[name], "20 s", LIMIT_S, "s", LIMIT_S / seconds[name], 1.0, limit)
        for name, what, limit in comparisons
    ]
    of_loop = (seconds["network"], "as many steps, nothing validated", seconds["plain_loop"])
    rows.append(Row(f"multilabel, 7 attributes, {where}", *of_loop, "s", of_loop[2] / of_loop[0], 0.8, ""))
    return rows


# Measurements, each in a process of its own


def network(_: int) -> Measured:
    """The shallow network on the attributes."""
    return _network("attributes")


def network_and_words(_: int) -> Measured:
    """The shallow network on attributes and words."""
    return _network("both")


def posterior(_: int) -> Measured:
    """The closed form."""
    from stages.training import AttributesConfig, PosteriorHeadConfig, TrainingConfig

    return _train(
        PosteriorHeadConfig(attributes=AttributesConfig(minimum_count=1)), TrainingConfig(minimum_class_size=1)
    )


def plain_loop(steps: int) -> Measured:
    """So many steps of the same network as anyone would write it."""
    import torch
    from torch.nn import functional

    features, values, _ = _drawn()
    rows, targets = torch.from_numpy(features).float(), torch.from_numpy(values)
    hidden = torch.nn.Linear(DIM, DIM)
    heads = torch.nn.ModuleList([torch.nn.Linear(DIM, count) for count in VALUES])
    weights = [*hidden.parameters(), *heads.parameters()]
    optimizer = torch.optim.Adam(weights, 2e-3, weight_decay=1e-5, fused=True)
    clock = _clock()
    started, made = clock(), 0
    while made < steps:
        for batch in torch.randperm(ROWS).split(BATCH)[: steps - made]:
            optimizer.zero_grad()
            embedded = torch.relu(hidden(rows[batch]))
            losses = [functional.cross_entropy(head(embedded), targets[batch, at]) for at, head in enumerate(heads)]
            torch.stack(losses).mean().backward()
            optimizer.step()
            made += 1
    return clock() - started, made


def _network(task: str) -> Measured:
    from stages.training import AttributesConfig, MultilabelHeadConfig, OptimizerConfig, TrainingConfig

    optimizer = OptimizerConfig(lr=2e-3, final_lr=2e-3, weight_decay=1e-5, warmup_epochs=0)
    training = TrainingConfig(epochs=100, batch_size=BATCH, holdout=0.1, patience=3, minimum_class_size=1)
    head = MultilabelHeadConfig(task=task, attributes=AttributesConfig(minimum_count=1))  # type: ignore[arg-type]
    return _train(head, training, optimizer)


def _train(head: Any, training: Any, optimizer: Any = None) -> Measured:
    from cache import FeatureStore, Identity, Provenance, RowOutcome, StoreWriter, digest_bytes
    from stages.training import HeadRecipe, train_head

    features, values, names = _drawn()
    digests = [digest_bytes(str(row).encode()) for row in range(ROWS)]
    with tempfile.TemporaryDirectory() as scratch:
        provenance = Provenance("cpu", {})
        store = FeatureStore.open(scratch, "drawn", Identity({"backbone": "drawn"}), dim=DIM, provenance=provenance)
        places = dict(zip(digests, range(ROWS), strict=True))
        with StoreWriter(store) as writer:
            for chunk in writer.plan(digests).chunks:
                rows = [places[digest] for digest in chunk.digests]
                writer.commit(chunk, features[rows], [RowOutcome()] * len(rows), provenance)
        records, clock = _records(digests, values, names), _clock()
        started = clock()
        trained = train_head(store, records, HeadRecipe(head, optimizer=optimizer, training=training))
        seconds = clock() - started
    held = sum(epoch.phase == "choose" for epoch in trained.log)
    steps = held * -(-ROWS * 9 // 10 // BATCH) + (len(trained.log) - held) * -(-ROWS // BATCH)
    return seconds, steps


def _clock() -> Callable[[], float]:
    import torch

    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def _drawn() -> tuple[np.ndarray, np.ndarray, list[str]]:  # type: ignore[type-arg]
    """Features (N, D), the values (N, 7) of their attributes, and names in words that follow from some of these."""
    rng = np.random.default_rng(0)
    values = np.stack([np.minimum(rng.geometric(min(0.6, 2 / count), ROWS), count) - 1 for count in VALUES], 1)
    latent = sum(rng.normal(size=(count, LATENT))[values[:, at]] for at, count in enumerate(VALUES))
    latent = np.maximum(latent @ rng.normal(size=(LATENT, 4 * LATENT)) / LATENT**0.5, 0)
    features = latent @ rng.normal(size=(4 * LATENT, DIM)) / LATENT**0.5 + 3 * rng.normal(size=(ROWS, DIM))
    words = rng.integers(WORDS, size=(LENGTH, max(VALUES)))
    names = [" ".join(f"word{words[at, row[-1 - at % 3]]}" for at in range(LENGTH)) for row in values]
    return features.astype(np.float16), values, names


def _records(digests: list[bytes], values: np.ndarray, names: list[str]):  # type: ignore[no-untyped-def, type-arg]
    import pyarrow as pa

    from stages.records import Records

    columns = {
        "key": [str(row) for row in range(ROWS)],
        "digest": pa.array(digests, pa.binary(32)),
        "label": ["/".join(map(str, row)) for row in values[:, -2:]],
        "domain": pa.nulls(ROWS, pa.string()),
        "tags": names,
    }
    attributes = {f"attributes.a{count}": [str(value) for value in values[:, at]] for at, count in enumerate(VALUES)}
    return Records(pa.table(columns | attributes), {})


MEASURES: dict[str, Callable[[int], Measured]] = {
    measure.__name__: measure for measure in (network, network_and_words, posterior, plain_loop)
}

if __name__ == "__main__":
    main()
