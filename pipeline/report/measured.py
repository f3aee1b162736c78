"""What the report is about: each backbone and head with its scores, query by query, and its first hundred ranks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache import Features
from cache.errors import MissingRowsError, NothingToScoreError
from pipeline.config import RunConfig
from pipeline.progress import Display
from pipeline.query_values import Kept, QueryValues, read_query_values
from pipeline.run import RAW, Vectors, score, scored_data
from pipeline.tables import ScoreRow
from stages.records import Records
from stages.retrieval import nearest
from stages.retrieval.scores import ALL, MEAN
from stages.retrieval.searches import Searches

DEPTH = 100
"""Ranks of each query that are looked at."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """The ``DEPTH`` gallery rows nearest to each query that can be answered, and their similarity, both (Q, DEPTH).

    Rows are positions in ``searches.gallery``, -1 past the end of a small gallery.
    """

    searches: Searches
    rows: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float32]
    relevant: npt.NDArray[np.bool_]
    """Which of them are right, (Q, DEPTH)."""


@dataclass(frozen=True, eq=False)
class Measured:
    """A backbone's raw feature or a head: its scores, the values they are means of, and its ranking."""

    vectors: Vectors
    name: str
    """What the page calls it: the head, and the backbone where there are several."""
    rows: Sequence[ScoreRow]
    kept: Mapping[str, Kept]
    """By metric."""
    ranking: Ranking | None
    """None where no query has its label in the gallery."""

    @property
    def raw(self) -> bool:
        """True for the feature itself."""
        return self.vectors.head == RAW

    def row(self, metric: str, domain: str) -> ScoreRow | None:
        """One of the scores."""
        return next((row for row in self.rows if (row.metric, row.domain) == (metric, domain)), None)


def measure(
    config: RunConfig, name: str, records: Records, vectors: Sequence[Vectors], display: Display
) -> list[Measured]:
    """Every one of ``vectors`` with its scores, the best by the first metric of the run file before the others.

    The scores are those that ``permafrost score`` wrote for the run file called ``name`` where they are of these very
    embeddings, images and settings; otherwise it is done again, and written.
    """
    path = Path(config.artifacts) / "scores" / f"{name}.parquet"
    rows, values = _on_disk(path, config, records, vectors)
    if values is None:
        display.say("scoring: there are no scores of these embeddings, images and settings yet")
        rows, values = score(config, name, records, vectors, display), read_query_values(path)
    several = len({of.backbone for of in vectors}) > 1
    found = []
    with display.bar("searching", "heads") as update:
        for done, of in enumerate(vectors):
            update(done, len(vectors), of.head)
            kept = {metric: part for part in values.of(of.backbone, of.head) for metric in part.per_query}
            own = [row for row in rows if (row.backbone, row.head) == (of.backbone, of.head)]
            title = f"{of.head} · {of.backbone}" if several else of.head
            found.append(Measured(of, title, own, kept, rank(of.store, records)))
    metric, domain = config.retrieval.metrics[0], overall(rows)
    return sorted(found, key=lambda of: -_value(of, metric, domain))


def overall(rows: Sequence[ScoreRow]) -> str:
    """Where a score stands for the whole: the mean of the domains, or all queries where there are no domains."""
    return MEAN if any(row.domain == MEAN for row in rows) else ALL


def rank(store: Features, records: Records) -> Ranking | None:
    """The first ranks of every query; None where none of them has anything to find."""
    try:
        searches = Searches.in_store(store, records.split("query"), records.split("gallery")).answerable()
    except NothingToScoreError:
        return None
    if not len(searches.queries):
        return None
    rows, similarity = nearest(store, searches.queries, searches.gallery, DEPTH)
    relevant = searches.judged.relevant.among(np.arange(len(rows)), rows)
    return Ranking(searches, rows, similarity, relevant)


def _value(of: Measured, metric: str, domain: str) -> float:
    row = of.row(metric, domain)
    return -np.inf if row is None else row.value


def _on_disk(
    path: Path, config: RunConfig, records: Records, vectors: Sequence[Vectors]
) -> tuple[list[ScoreRow], QueryValues | None]:
    """The scores at ``path`` if they are of just this; a run file that names fewer heads now reads those it names."""
    lines = path.with_suffix(".jsonl")
    try:
        values = read_query_values(path)
        rows = [ScoreRow(**json.loads(line)) for line in lines.read_text(encoding="utf-8").splitlines()]
    except (MissingRowsError, OSError, ValueError, TypeError):
        return [], None
    wanted = {(of.backbone, of.head): of.store.fingerprint for of in vectors}
    metrics = set(config.retrieval.metrics)
    there = {key: values.embeddings(*key) for key in values.heads() if key in wanted}
    scored = {key: {row.metric for row in rows if (row.backbone, row.head) == key} for key in wanted}
    named = {(row.backbone, row.head, row.embeddings) for row in rows}
    fresh = (
        values.data == scored_data(config, records)
        and there == wanted
        and all(metrics <= found for found in scored.values())
        and all((*key, mark) in named for key, mark in wanted.items())
    )
    return (rows, values) if fresh else ([], None)
