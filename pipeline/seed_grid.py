"""The cells of a table: a head trained with one seed on some of the training rows, and what each query scores.

A cell that is finished is a file, named by everything that it follows from: the same table goes on from those it has.
Cells are computed in processes of one thread each, so that as many heads train at once as there are processors.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from cache import FeatureStore, fingerprint
from cache.atomic import replace_bytes
from pipeline.backbones import find_features
from pipeline.config import HeadRun, RunConfig, read_config
from pipeline.feature_sets import feature_sets
from pipeline.progress import Display
from pipeline.run import RAW, read_dataset, score_vectors, setup_of
from stages.ranking.metrics import Values
from stages.records import Records
from stages.records.seeded_order import seeded_order
from stages.training import FusedFeatures, Head, head_identity, train_head
from stages.training.embedded import Embedded
from stages.training.multilabel.labels import attributes_digest
from stages.training.recipe import Recipe
from stages.training.rows import rows_digest


class Cell(NamedTuple):
    """A head (or ``raw``) on a backbone's features, a number of training rows (None: all), and a seed."""

    backbone: str
    head: str
    rows: int | None
    seed: int


@dataclass(frozen=True, eq=False)
class Scored:
    """The value (Q,) of each metric for each query, by name; and the queries, which may differ from metric to metric.

    A metric by label leaves out queries that one by attributes keeps.
    """

    values: Mapping[str, Values]
    keys: Mapping[str, tuple[str, ...]]


class Ground(NamedTuple):
    """What cells are computed on, read once a process."""

    config: RunConfig
    records: Records
    features: Mapping[str, tuple[FeatureStore | FusedFeatures, tuple[HeadRun, ...], bool]]


def ground(run_file: Path, display: Display) -> Ground:
    """The records of ``run_file``, and for each backbone (or fusion) its features, its heads, and whether it is raw."""
    config = read_config(run_file)
    records = read_dataset(config, display)
    stores = [found for wanted in config.backbones for found in find_features(wanted, config, records, display)]
    learned = feature_sets(stores, config.heads)
    return Ground(config, records, {of.name: (of.features, of.heads, of.raw) for of in learned})


def cells_of(on: Ground) -> list[Cell]:
    """Every cell of the table, and those of the learning curve."""
    table = on.config.repeat
    assert table is not None
    found: dict[Cell, None] = {}
    for number, (backbone, (_, heads, raw)) in enumerate(on.features.items()):
        if raw:
            found[Cell(backbone, RAW, None, 0)] = None
        for head in heads:
            drawn = Recipe(head.head, head.loss, head.start, head.optimizer, head.training).drawn
            for rows in (None, *(table.rows if number == 0 and head.name in (table.curve or [head.name]) else ())):
                for seed in table.seeds if drawn or rows is not None else table.seeds[:1]:  # which rows is drawn too
                    found[Cell(backbone, head.name, rows, seed)] = None
    return list(found)


def compute(run_file: Path, cells: Sequence[Cell], folder: Path, workers: int | None) -> Iterator[tuple[Cell, Scored]]:
    """Each of ``cells`` as it is done, kept in ``folder`` or found there."""
    count = min(workers or os.cpu_count() or 1, len(cells))
    with ProcessPoolExecutor(count, get_context("spawn"), initializer=_alone) as pool:
        # The longest first would be best; heads of one kind, spread over the processes, come near it.
        waiting = {pool.submit(_cell, run_file, cell, folder): cell for cell in cells}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def head_of(on: Ground, cell: Cell) -> Head:
    """The trained head of a cell that is not raw."""
    features, heads, _ = on.features[cell.backbone]
    wanted = next(head for head in heads if head.name == cell.head)
    return train_head(**_setup(on, cell, wanted, features))


def _alone() -> None:
    torch.set_num_threads(1)


@lru_cache(maxsize=1)
def _ground(run_file: Path) -> Ground:
    return ground(run_file, Display(quiet=True))


def _cell(run_file: Path, cell: Cell, folder: Path) -> Scored:
    on = _ground(run_file)
    path = folder / f"{_name(on, cell)}.npz"
    if not path.exists():
        features = on.features[cell.backbone][0]
        vectors = features if cell.head == RAW else Embedded(head_of(on, cell), features)
        arrays: dict[str, Any] = {}  # numbers and text
        # The values of queries are all that is kept: intervals are those of the mean over seeds.
        for place, scores in enumerate(score_vectors(on.config, on.records, vectors, resamples=1)):
            arrays[f"keys {place}"] = np.array(scores.query_keys)
            arrays |= {f"{place} {metric}": values for metric, values in scores.per_query.items()}
        content = io.BytesIO()
        np.savez(content, **arrays)
        folder.mkdir(parents=True, exist_ok=True)
        replace_bytes(path, content.getbuffer())
    return _read(path)


def _read(path: Path) -> Scored:
    values, keys = {}, {}
    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            place, _, metric = name.partition(" ")
            if place != "keys":
                values[metric], keys[metric] = arrays[name], tuple(map(str, arrays[f"keys {place}"]))
    return Scored(values, keys)


def _name(on: Ground, cell: Cell) -> str:
    """The fingerprint of everything that a cell follows from."""
    features, heads, _ = on.features[cell.backbone]
    identity = None
    if cell.head != RAW:
        wanted = next(head for head in heads if head.name == cell.head)
        identity = head_identity(**_setup(on, cell, wanted, features)).fingerprint
    parts = [on.records.split(role) for role in ("query", "gallery")]
    return fingerprint(
        {
            "head": identity,
            "features": features.fingerprint,
            "metrics": list(on.config.retrieval.metrics),
            "judged": repr((on.config.retrieval.protocol, on.config.retrieval.ties, on.config.retrieval.unanswerable)),
            "similar": {name: dict(weights) for name, weights in on.config.retrieval.similar.items()},
            "searched": [text for part in parts for text in (rows_digest(part), attributes_digest(part))],
        }
    )[:32]


def _setup(on: Ground, cell: Cell, wanted: HeadRun, features: FeatureStore | FusedFeatures) -> dict[str, Any]:
    """What the head of a cell follows from; from fewer rows it makes about as many steps as from all."""
    every = on.records.split("train")
    train = some_of(every, cell.rows, cell.seed)
    epochs = round(wanted.training.epochs * len(every) / len(train))
    wanted = replace(wanted, training=replace(wanted.training, epochs=epochs))
    return setup_of(replace(on.config, seed=cell.seed), wanted, features, on.records, train)


def some_of(train: Records, rows: int | None, seed: int) -> Records:
    """The first ``rows`` of ``train`` (None: all) where one of each class is drawn by turns; fewer are among more."""
    if rows is None or rows >= len(train):
        return train
    keys, classes = train.keys, [str(name) for name in train.classes]
    drawn: dict[str, int] = {}
    turns = []
    for row in sorted(range(len(train)), key=lambda row: seeded_order(seed, "row", keys[row])):
        name = classes[row]
        drawn[name] = drawn.get(name, 0) + 1
        turns.append((drawn[name], seeded_order(seed, "class", name), row))
    return train.take(sorted(row for _, _, row in sorted(turns)[:rows]))
