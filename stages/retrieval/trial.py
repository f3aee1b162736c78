"""The part of an evaluation that is the same whoever ranks: who is asked, what counts, and the policies.

A *trial* is a set of queries that search the same gallery rows: one for a merged gallery, one for each domain where
every domain has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from cache.errors import NothingToScoreError
from stages.ranking.metrics import Metric, find_metric
from stages.ranking.relevance import Judgement, Rows, own_rows
from stages.ranking.tables import Table
from stages.ranking.tie_averaging import EXPECTED, check_expected
from stages.records import Records
from stages.retrieval.protocols.rules import Rules
from stages.retrieval.scores import Resampling, Scores, UnanswerablePolicy, check_choice, gather, to_score

TiePolicy: TypeAlias = Literal["row", "expected"]
"""Equal similarities: in the order of the gallery, or the mean over all of their orders."""


@dataclass(frozen=True)
class Trial:
    """Queries that search the same rows: positions among the queries asked (Q,), and among what is searched (G,).

    ``itself`` (Q,) is each query's own row of these G, or -1.
    """

    asked: Rows
    searched: Rows
    judged: Judgement
    itself: Rows
    num_relevant: Rows

    def take(self, queries: Rows) -> Trial:
        """The same for some of the queries."""
        judged = self.judged.take(queries)
        return Trial(self.asked[queries], self.searched, judged, self.itself[queries], self.num_relevant[queries])


TablesOf: TypeAlias = Callable[[Trial, int], Iterator[Table]]
"""The tables of a trial's queries, at least so many ranks deep."""


@dataclass(frozen=True)
class Marking:
    """By what metrics, rules and policies a ranking is scored; refuses at once what cannot be."""

    metrics: tuple[Metric, ...]
    rules: Rules
    ties: TiePolicy
    unanswerable: UnanswerablePolicy
    resampling: Resampling

    @classmethod
    def of(
        cls,
        metrics: Sequence[str] | None,
        rules: Rules,
        ties: TiePolicy,
        unanswerable: UnanswerablePolicy,
        resampling: Resampling,
    ) -> Marking:
        """By the names of the metrics, or those of the rules. Raises ValueError for what is unknown."""
        names = rules.metrics if metrics is None else metrics
        wanted = tuple(find_metric(name) for name in dict.fromkeys(names))
        if not wanted:
            raise ValueError("metrics must name at least one, got none")
        check_choice("ties", ties, get_args(TiePolicy))
        if ties == EXPECTED:
            for metric in wanted:
                check_expected(metric)
        return cls(wanted, rules, ties, unanswerable, resampling)

    def depth(self, num_relevant: Rows, gallery: int) -> Rows:
        """How many ranks the metrics look at for queries of so many relevant rows (Q,)."""
        looked: Rows = np.max([metric.depths(num_relevant, gallery) for metric in self.metrics], axis=0)
        return looked

    def score(
        self, tables: TablesOf, *, queries: Records, gallery: Records, asked: Records, searched: Records
    ) -> Scores:
        """The scores of what ``tables`` has of the queries ``asked``, out of all ``queries``."""
        found = list(trials(self.rules, asked, searched))
        num_relevant = np.zeros(len(asked), np.int64)
        for trial in found:
            num_relevant[trial.asked] = trial.num_relevant
        answerable = num_relevant > 0
        if not answerable.any():
            raise NothingToScoreError(
                f"none of the {len(asked):,} queries has another image of its label in the gallery of "
                f"{len(searched):,}. Compare the labels of both (and the domains), or choose other splits."
            )
        scored = to_score(answerable, self.unanswerable, asked)
        per_query = {metric.name: np.zeros(len(asked)) for metric in self.metrics}
        sizes = {}
        for trial in found:
            sizes.update(dict.fromkeys(self.rules.groups(asked.take(trial.asked)), len(trial.searched)))
            part = trial.take(np.flatnonzero(trial.num_relevant > 0))  # the others have 0 in every metric
            if not len(part.asked):
                continue
            for table in tables(part, int(self.depth(part.num_relevant, len(part.searched)).max())):
                for metric in self.metrics:
                    per_query[metric.name][part.asked[table.queries]] = table.value(metric, part.num_relevant)
        return gather(
            {name: values[scored] for name, values in per_query.items()},
            queries=queries,
            gallery=gallery,
            asked=asked,
            searched=searched,
            scored=scored,
            unanswerable=~answerable,
            resampling=self.resampling,
            groups=self.rules.groups,
            sizes={name: size for name, size in sizes.items() if name is not None} if len(found) > 1 else None,
        )


def trials(rules: Rules, asked: Records, searched: Records) -> Iterator[Trial]:
    """The queries ``asked``, by what they search of ``searched``."""
    if rules.searched == "merged":
        yield _trial(rules, asked, searched, np.arange(len(asked)), np.arange(len(searched)))
        return
    of_queries, of_gallery = (np.array(records.domains, dtype=object) for records in (asked, searched))
    for domain in dict.fromkeys(asked.domains):
        rows = np.flatnonzero(of_queries == domain), np.flatnonzero(of_gallery == domain)
        yield _trial(rules, asked, searched, *rows)


def _trial(rules: Rules, asked: Records, searched: Records, queries: Rows, gallery: Rows) -> Trial:
    some, rows = asked.take(queries), searched.take(gallery)
    judged, itself = rules.judge(some, rows), own_rows(some.keys, rows.keys)
    return Trial(queries, gallery, judged, itself, judged.num_relevant(itself))
