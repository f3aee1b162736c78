"""The part of an evaluation that is the same whoever ranks: metrics, policies, and the values of every query."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from cache.errors import NothingToScoreError, SettingsError
from stages.ranking.metrics import Metric, find_metric
from stages.ranking.relevance import Rows
from stages.ranking.tables import Table
from stages.ranking.tie_averaging import AVERAGED, check_averaged
from stages.retrieval.gallery import Sides
from stages.retrieval.protocols.rules import Rules
from stages.retrieval.query_set import QuerySet
from stages.retrieval.scores import Scores, UnanswerablePolicy, check_choice, domain_names, gather, to_score

TiePolicy: TypeAlias = Literal["row", "expected"]
"""Equal similarities: in the order of the gallery, or the mean over all of their orders."""

TablesOf: TypeAlias = Callable[[QuerySet, int], Iterator[Table]]
"""The relevance tables of the queries of a set, at least so many ranks deep."""


@dataclass(frozen=True)
class Scoring:
    """By what metrics, rules and policies a ranking is scored; refuses at once what cannot be."""

    metrics: tuple[Metric, ...]
    rules: Rules
    ties: TiePolicy
    unanswerable: UnanswerablePolicy

    @classmethod
    def of(
        cls,
        metrics: Sequence[str] | None,
        rules: Rules,
        ties: TiePolicy,
        unanswerable: UnanswerablePolicy,
    ) -> Scoring:
        """By the names of the metrics, or those of the rules. Raises ValueError for what is unknown."""
        names = rules.metrics if metrics is None else metrics
        wanted = tuple(find_metric(name) for name in dict.fromkeys(names))
        if not wanted:
            raise SettingsError("metrics must name at least one, got none")
        check_choice("ties", ties, get_args(TiePolicy))
        if ties == AVERAGED:
            for metric in wanted:
                check_averaged(metric)
        return cls(wanted, rules, ties, unanswerable)

    def depth(self, num_relevant: Rows, gallery: int) -> Rows:
        """How many ranks the metrics look at for queries of so many relevant rows (Q,)."""
        deepest: Rows = np.max([metric.depths(num_relevant, gallery) for metric in self.metrics], axis=0)
        return deepest

    def score(self, tables: TablesOf, sides: Sides) -> Scores:
        """The scores of what ``tables`` has of the queries that search.

        Raises RecordsError where the records are not what the rules are for, and NothingToScoreError.
        """
        self.rules.check(sides.queries, sides.gallery)
        domain_names(self.rules.groups(sides.queries))
        sets = QuerySet.by_rules(self.rules, sides.searching, sides.searched)
        num_relevant = np.zeros(len(sides.searching), np.int64)
        for one in sets:
            num_relevant[one.query_rows] = one.num_relevant
        answerable = num_relevant > 0
        if not answerable.any():
            raise NothingToScoreError(
                f"none of the {len(sides.searching):,} queries has another image of its label in the gallery of "
                f"{len(sides.searched):,}. Compare the labels of both (and the domains), or choose other splits."
            )
        scored = to_score(answerable, self.unanswerable, sides.searching)
        per_query = {metric.name: np.zeros(len(sides.searching)) for metric in self.metrics}
        sizes = {}
        for one in sets:
            sizes.update(dict.fromkeys(self.rules.groups(one.queries), len(one.gallery)))
            part = one.answerable()  # the others have 0 in every metric
            if not len(part):
                continue
            for table in tables(part, int(self.depth(part.num_relevant, len(part.gallery)).max())):
                for metric in self.metrics:
                    per_query[metric.name][part.query_rows[table.queries]] = table.value(metric, part.num_relevant)
        return gather(
            {name: values[scored] for name, values in per_query.items()},
            sides,
            scored=scored,
            unanswerable=~answerable,
            groups=self.rules.groups,
            sizes={name: size for name, size in sizes.items() if name is not None} if len(sets) > 1 else None,
        )
