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
from pipeline.run import Vectors, rules_of, score, scored_data
from pipeline.score_rows import RAW, ScoreRow
from stages.records import Records
from stages.retrieval import nearest
from stages.retrieval.gallery import with_row
from stages.retrieval.protocols import Rules
from stages.retrieval.query_set import Searches
from stages.retrieval.scores import ALL, MEAN
from stages.retrieval.trial import trials

DEPTH = 100
"""Ranks of each query that are looked at."""

_SEARCHED = " + "  # between a head and how it was searched


@dataclass(frozen=True, eq=False)
class Ranking:
    """The ``DEPTH`` gallery rows nearest to each of the Q queries that can be answered, by the run's protocol.

    ``rows`` and ``similarity`` are (Q, DEPTH): positions in ``gallery``, -1 past the end of a small one. The query
    itself and its junk are not among them.
    """

    queries: Records
    gallery: Records
    rows: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float32]
    relevant: npt.NDArray[np.bool_]
    """Which of them are right, (Q, DEPTH)."""
    num_relevant: npt.NDArray[np.int64]
    """R: how many gallery rows are right, (Q,)."""
    groups: Sequence[str | None]
    """What scores are told by beside those of all: the domain of each query, (Q,)."""
    searches: Sequence[Searches]
    """What was searched: once for all, or for each domain by itself."""


@dataclass(frozen=True, eq=False)
class Measured:
    """A raw feature, a head, or one of them as it was searched otherwise: its scores, and what they are means of."""

    vectors: Vectors
    head: str
    """As scores call it: ``raw``, the head, or the head and how it was searched."""
    name: str
    """What the page calls it: the head, and the backbone where there are several."""
    rows: Sequence[ScoreRow]
    kept: Mapping[str, Kept]
    """By metric."""
    ranking: Ranking | None
    """By exact search. None where no query has anything to find, and for other ways of searching."""

    @property
    def raw(self) -> bool:
        """True for the feature itself."""
        return self.head == RAW

    @property
    def exact(self) -> bool:
        """False for another way of searching than comparing with every row."""
        return self.head == self.vectors.head

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
    stores = {(of.backbone, of.head): of for of in vectors}
    found = []
    with display.bar("searching", "heads") as update:
        scored = values.heads()
        for done, (backbone, head) in enumerate(scored):
            of = stores.get((backbone, head.partition(_SEARCHED)[0]))
            if of is None or values.embeddings(backbone, head) != of.store.fingerprint:
                continue  # of a head that the run file no longer names
            update(done, len(scored), head)
            kept = {metric: part for part in values.of(backbone, head) for metric in part.per_query}
            own = [row for row in rows if (row.backbone, row.head) == (backbone, head)]
            title = f"{head} · {backbone}" if several else head
            ranking = rank(of.store, records, rules_of(config)) if head == of.head else None
            found.append(Measured(of, head, title, own, kept, ranking))
    metric, domain = config.retrieval.metrics[0], overall(rows)
    return sorted(found, key=lambda of: -_value(of, metric, domain))


def overall(rows: Sequence[ScoreRow]) -> str:
    """Where a score stands for the whole: the mean of the domains, or all queries where there are no domains."""
    return MEAN if any(row.domain == MEAN for row in rows) else ALL


def rank(store: Features, records: Records, rules: Rules) -> Ranking | None:
    """The first ranks of every query; None where none of them has anything to find."""
    try:
        asked, searched = (with_row(store, records.split(role), role) for role in ("query", "gallery"))
    except NothingToScoreError:
        return None
    queries, rows, similarity, relevant, counts, parts = [], [], [], [], [], []
    for trial in trials(rules, asked, searched):
        trial = trial.take(np.flatnonzero(trial.num_relevant > 0))
        if not len(trial.asked):
            continue
        part = Searches(asked.take(trial.asked), searched.take(trial.searched), trial.judged, trial.itself)
        found, similar = _nearest(store, part)
        queries.append(trial.asked)
        rows.append(np.append(trial.searched, -1)[found])  # row -1 is the one appended
        similarity.append(similar)
        relevant.append(trial.judged.relevant.among(np.arange(len(found)), found))
        counts.append(trial.num_relevant)
        parts.append(part)
    if not parts:
        return None
    answered = asked.take(np.concatenate(queries))
    return Ranking(
        answered,
        searched,
        np.concatenate(rows),
        np.concatenate(similarity),
        np.concatenate(relevant),
        np.concatenate(counts),
        rules.groups(answered),
        parts,
    )


def _nearest(store: Features, part: Searches) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The first ``DEPTH`` rows (Q, DEPTH) that are neither the query nor its junk, and their similarity."""
    junk = part.judged.junk
    spare = 0 if junk is None else int(junk.counts.max(initial=0))
    rows, similarity = nearest(store, part.queries, part.gallery, DEPTH + spare)
    if junk is None:
        return rows, similarity
    dropped = junk.among(np.arange(len(rows)), rows)
    order = np.argsort(dropped, axis=1, kind="stable")[:, :DEPTH]
    rows, similarity = np.where(dropped, -1, rows), np.where(dropped, np.float32(-np.inf), similarity)
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(similarity, order, axis=1)


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
