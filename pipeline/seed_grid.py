"""Every head of a run with several seeds, and on some of the training rows: the cells of a table and their scores.

::

    cells (backbone, head, rows, seed), each run once --> values of every query --mean over seeds--> table rows

    <artifacts>/tables/<run>/
        cells/<fingerprint>.npz
        table.jsonl, table.html, <backbone>-<fingerprint of what it shows>.png

Cells are run in processes of one thread each, so that as many heads train at once as there are processors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cache import Features, fingerprint
from cache.errors import RecordsError, SettingsError
from cache.fingerprint import JSON
from cache.settings import changed_settings
from pipeline.config import RAW, HeadRun, read_config
from pipeline.dataset import FeatureSet, Run, feature_sets, run_of
from pipeline.progress import Display
from pipeline.trials import Arrays
from pipeline.vectors import training_arguments
from stages.analysis import paired_difference
from stages.ranking.intervals import class_numbers, estimate, share_interval
from stages.records import Records
from stages.records.records import balanced_subset
from stages.records.splits import DISTRACTORS, ROLES
from stages.retrieval.evaluate import ScoringConfig, score
from stages.retrieval.query_values import scored_numbers
from stages.retrieval.scores import VERSION, QueryScores
from stages.training import head_identity, train_head
from stages.training.embed import Embedded
from stages.training.multilabel.labels import attributes_digest
from stages.training.rows.labelled_rows import in_training_order, rows_digest

_REFUSED = "refused"
"""The array of a cell whose rows are too few to train on: why."""


class Cell(NamedTuple):
    """A head (or ``raw``) on a backbone's features, a number of training rows (None: all), and a seed."""

    backbone: str
    head: str
    rows: int | None
    seed: int


class TableRow(NamedTuple):
    """One number of the table, and a line of JSON.

    ``value`` is the mean over seeds and queries; ``low`` and ``high`` bound its 95 % interval over classes, and
    ``spread`` is the standard deviation over seeds. ``gain`` is how far it is above the raw feature, query by query,
    between its own bounds; None for the raw feature.
    """

    backbone: str
    head: str
    rows: int
    metric: str
    value: float
    low: float
    high: float
    spread: float
    seeds: int
    queries: int
    gain: float | None
    gain_low: float | None
    gain_high: float | None


@dataclass(frozen=True)
class SeedGrid:
    """What cells are computed on: ``sets`` are the features and the heads that learn from them, by name."""

    run: Run
    sets: Mapping[str, FeatureSet]

    def cells(self) -> list[Cell]:
        """Every cell of the table, and those of the learning curve, which is that of the first features."""
        table = self.run.config.repeat
        assert table is not None
        cells: dict[Cell, None] = {}
        for place, part in enumerate(self.sets.values()):
            if part.raw:
                cells[Cell(part.name, RAW, None, 0)] = None
            for head in part.heads:
                trained = head.recipe.is_trained
                curve = place == 0 and head.name in (table.curve or (head.name,))
                for rows in (None, *(table.rows if curve else ())):
                    # A closed form depends on the seed only by the rows that it is fitted to.
                    for seed in table.seeds if trained or rows is not None else table.seeds[:1]:
                        cells[Cell(part.name, head.name, rows, seed)] = None
        return list(cells)

    def fingerprint(self, cell: Cell) -> str:
        """The fingerprint of everything that the scores of ``cell`` follow from."""
        try:
            head = None if cell.head == RAW else head_identity(**self._setup(cell)).fingerprint
        except (RecordsError, SettingsError) as error:
            if cell.rows is None:
                raise
            head = f"{_REFUSED}: {cell.head} with {cell.rows}, seed {cell.seed}: {error}"
        features = scored_numbers(self.sets[cell.backbone].features, self.run.records)
        return fingerprint({"head": head, "features": features, "scoring": self._scoring})

    @cached_property
    def _records(self) -> Records:
        """The records by digest: the scores of a cell do not depend on the order of a table's rows."""
        return in_training_order(self.run.records)

    @cached_property
    def _scoring(self) -> dict[str, JSON]:
        """What all cells are scored by: the settings, and the images with their labels and attributes."""
        settings = changed_settings(self.run.config.retrieval)
        sides = [self._records.split(role) for role in (*ROLES, *DISTRACTORS) if role != "train"]
        return {
            "version": VERSION,
            "settings": {field.name: settings[field.name] for field in fields(ScoringConfig) if field.name in settings},
            "images": [digest for side in sides for digest in (rows_digest(side), attributes_digest(side))],
            "keys": [fingerprint([*side.keys]) for side in sides],
        }

    def vectors(self, cell: Cell) -> Features:
        """The raw feature, or the embeddings of the head of ``cell``, which is trained."""
        features = self.sets[cell.backbone].features
        return features if cell.head == RAW else Embedded(train_head(**self._setup(cell)), features)

    def scores(self, cells: Sequence[Cell]) -> list[Arrays]:
        """:meth:`score` of each of ``cells``."""
        return [self.score(cell) for cell in cells]

    def score(self, cell: Cell) -> Arrays:
        """Train the head of ``cell``, and score every query: arrays that :func:`read_scores` takes.

        A point of the learning curve whose rows are too few to train on has the reason instead: :func:`refusals`.
        """
        try:
            vectors = self.vectors(cell)
        except (RecordsError, SettingsError) as error:
            if cell.rows is None:
                raise
            return {_REFUSED: np.array(str(error))}
        arrays: dict[str, Any] = {}  # of numbers or text
        for part, scores in enumerate(score(vectors, self._records, self.run.config.retrieval)):
            arrays[f"{part} "] = np.array(scores.query_keys)
            arrays[f"{part} class"] = np.array([name or "" for name in scores.query_classes])
            arrays |= {f"{part} {metric}": values for metric, values in scores.per_query.items()}
        return arrays

    def _setup(self, cell: Cell) -> dict[str, Any]:
        """What the head of a cell follows from; from fewer rows it makes about as many steps as from all."""
        part, head = self.sets[cell.backbone], self._head(cell)
        if cell.rows is None:
            train = None
        else:
            train, training, every = self._rows(cell), head.recipe.training, len(self._rows(cell._replace(rows=None)))
            if cell.rows >= every:
                raise RecordsError(f"{every:,} images can be trained on, and the curve ends with all of them")
            if len(train) < 2 * training.minimum_class_size:
                raise RecordsError(
                    f"a head needs two classes of {training.minimum_class_size} images or more: name "
                    f"{2 * training.minimum_class_size} rows or more"
                )
            training = replace(training, epochs=round(training.epochs * every / len(train)))
            head = replace(head, recipe=replace(head.recipe, training=training))
        config = replace(self.run.config, seed=cell.seed)
        return training_arguments(replace(self.run, config=config), head, part.features, train)

    def rows(self, cell: Cell) -> int:
        """How many images the head of ``cell`` learns from; 0 for the raw feature."""
        return 0 if cell.head == RAW else len(self._rows(cell))

    def _rows(self, cell: Cell) -> Records:
        """The training images of ``cell`` that have a feature and are in classes as large as its head wants them."""
        every = self.run.records.split("train")
        every = every.take(every.rows_in(self.sets[cell.backbone].features))
        least = self._head(cell).recipe.training.minimum_class_size
        return balanced_subset(every, cell.rows, cell.seed, least=least)

    def _head(self, cell: Cell) -> HeadRun:
        return next(head for head in self.sets[cell.backbone].heads if head.name == cell.head)


def open_grid(run_file: Path | str, display: Display) -> SeedGrid:
    """The run of ``run_file``, and its features as they were extracted."""
    run = run_of(read_config(run_file), display, run_file)
    return SeedGrid(run, {part.name: part for part in feature_sets(run)})


def refusals(scored: Mapping[Cell, Arrays]) -> dict[Cell, str]:
    """Why a head cannot be trained on so few rows, by its first such cell of each point of the learning curve."""
    reasons: dict[Cell, str] = {}
    for cell, arrays in scored.items():
        if _REFUSED in arrays:
            reasons.setdefault(cell._replace(seed=0), str(arrays[_REFUSED]))
    return reasons


def table_rows(grid: SeedGrid, scored: Mapping[Cell, Arrays]) -> list[TableRow]:
    """The rows of every metric, in the order of the cells; none of a point that some seed refused."""
    refused = refusals(scored)
    groups: dict[tuple[str, str, int | None], list[list[QueryScores]]] = {}
    for cell, arrays in scored.items():
        if cell._replace(seed=0) not in refused:
            groups.setdefault(cell[:3], []).append(read_scores(arrays))
    rows = []
    for (backbone, head, count), by_seed in groups.items():
        trained = grid.rows(Cell(backbone, head, count, grid.run.config.seed))
        raw = None if head == RAW else groups.get((backbone, RAW, None))
        for at, parts in enumerate(zip(*by_seed, strict=True)):
            values = {name: np.stack([part.per_query[name] for part in parts]) for name in parts[0].per_query}  # (S, Q)
            means = replace(parts[0], per_query={metric: by_query.mean(0) for metric, by_query in values.items()})
            gains = {} if raw is None else {gain.metric: gain for gain in paired_difference(means, raw[0][at])}
            whole = estimate(np.stack(list(means.per_query.values())), class_numbers(means.query_classes))
            lows, highs = (end.tolist() for end in share_interval(whole))
            for (metric, by_query), low, high in zip(values.items(), lows, highs, strict=True):
                gain = gains.get(metric)
                spread = float(by_query.mean(1).std(ddof=1)) if len(by_query) > 1 else 0.0
                ends = (None, None, None) if gain is None else (gain.value, gain.low, gain.high)
                names = backbone, head, trained, metric
                rows.append(TableRow(*names, float(by_query.mean()), low, high, spread, *by_query.shape, *ends))
    return rows


def read_scores(arrays: Arrays) -> list[QueryScores]:
    """The values by query that :meth:`SeedGrid.score` made, those of the same queries together."""
    parts: dict[str, dict[str, Any]] = {}
    for name, values in arrays.items():
        part, _, metric = name.partition(" ")
        parts.setdefault(part, {})[metric] = values
    return [
        QueryScores(tuple(map(str, by_name.pop(""))), tuple(str(c) or None for c in by_name.pop("class")), by_name)
        for by_name in parts.values()
    ]


def score_cells(run_file: str, cells: Sequence[Cell]) -> list[Arrays]:
    """:meth:`SeedGrid.scores` in a process that has not read ``run_file`` yet."""
    return _opened(run_file).scores(cells)


@lru_cache(maxsize=1)
def _opened(run_file: str) -> SeedGrid:
    """The grid of ``run_file``, read once a process."""
    return open_grid(run_file, Display(quiet=True, warnings=False))
