"""Score a store of features or embeddings on a set of queries and a gallery.

::

    rows by digest -> unit length -> ranks of the relevant rows, block of queries by block -> metrics -> Scores

What is relevant to a query, a protocol says; without one: the gallery rows of the same label. Where records have
domains the domain must be the same too, while the gallery stays one, merged over the domains. Gallery rows without a
label are relevant to nobody: distractors. A query that is itself in the gallery (the same record key) is taken out of
its own ranking; a byte-identical image under another key is another record, and stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np

from cache import Features
from cache.errors import NothingToScoreError, RecordsError, SettingsError
from stages.ranking.metrics import Metric, find_metric
from stages.ranking.normalize import unit_length
from stages.ranking.relevance import Rows
from stages.ranking.tables import Table, relevance_tables
from stages.ranking.ties import AVERAGED, check_averaged
from stages.records import Records
from stages.retrieval.attributes import LEGACY, evaluate_legacy
from stages.retrieval.protocols import ByLabelConfig, MetConfig, ProtocolConfig, SmallDataConfig
from stages.retrieval.query_set import QuerySet, Sides
from stages.retrieval.recognition import RECOGNITION, evaluate_recognition
from stages.retrieval.rules import Rules
from stages.retrieval.scores import Scores, UnanswerablePolicy, check_choice, domain_names, gather, to_score

TiePolicy: TypeAlias = Literal["row", "expected"]
"""Equal similarities: in the order of the gallery, or the mean over all of their orders."""


def evaluate(
    vectors: Features,
    *,
    queries: Records,
    gallery: Records,
    metrics: Sequence[str] | None = None,
    protocol: ProtocolConfig = ByLabelConfig(),
    validation: tuple[Records, Records] | None = None,
    ties: TiePolicy = "row",
    unanswerable: UnanswerablePolicy = "leave_out",
) -> Scores:
    """Score ``vectors``, made unit length, on every query against the whole gallery, exactly.

    Images that failed are left out and counted (``failed_queries``, ``failed_gallery``).

    Args:
        vectors: features or embeddings of the images in both.
        queries: what searches.
        gallery: what is searched; with leave-one-out the same records.
        metrics: by default those of the protocol.
        protocol: who is relevant, what is searched, and by what groups scores are reported. With ``met`` the queries
            that show nothing of the gallery belong to ``queries`` too.
        validation: queries and gallery that a protocol tunes on (``met``).
        ties: equal similarities by gallery row, or ``expected``: the mean over all of their orders.
        unanswerable: queries to which nothing is relevant: left out of every mean, ``zero`` in it, or an ``error``.

    Raises:
        ValueError: an unknown metric, one that has no ``expected`` value, or a number out of range.
        RecordsError: two gallery records of one key, a domain named ``all`` or ``mean``, or records that are not what
            the protocol is for.
        MissingRowsError: an image that has no row in ``vectors`` at all.
        NothingToScoreError: no gallery image or no query is left.

    >>> from stages.retrieval.example import IMAGES, VECTORS
    >>> scores = evaluate(VECTORS, queries=IMAGES, gallery=IMAGES, metrics=["hit@1", "precision@5"])
    >>> scores.value("hit@1"), round(scores.value("precision@5"), 3)
    (1.0, 0.6)
    """
    check_policies(protocol, ties, unanswerable)
    if isinstance(protocol, MetConfig):
        named = RECOGNITION if metrics is None else metrics
        sides = {"queries": queries, "gallery": gallery}
        return evaluate_recognition(vectors, **sides, protocol=protocol, validation=validation, metrics=named)
    if isinstance(protocol, SmallDataConfig):
        return evaluate_legacy(vectors, one_set(queries, gallery), metrics=(LEGACY,) if metrics is None else metrics)

    def tables(part: QuerySet, metrics: Sequence[Metric]) -> Iterator[Table]:
        gallery, queries = (unit_length(vectors.read(side.digests)) for side in (part.gallery, part.queries))
        depth = int(depths(metrics, part).max())
        return relevance_tables(gallery, queries, part.judged, part.itself, depth, tied=ties == AVERAGED)

    return score_rankings(
        tables, Sides.in_store(vectors, queries, gallery), metrics, protocol.rules(), ties, unanswerable
    )


def score_rankings(
    tables: Callable[[QuerySet, Sequence[Metric]], Iterator[Table]],
    sides: Sides,
    metrics: Sequence[str] | None,
    rules: Rules,
    ties: TiePolicy,
    unanswerable: UnanswerablePolicy,
) -> Scores:
    """The scores of what ``tables`` has, as deep as the metrics look, of the queries that search."""
    wanted = tuple(find_metric(name) for name in dict.fromkeys(rules.metrics if metrics is None else metrics))
    if not wanted:
        raise SettingsError("metrics must name at least one, got none")
    check_choice("ties", ties, get_args(TiePolicy))
    if ties == AVERAGED:
        for metric in wanted:
            check_averaged(metric)
    rules.check(sides.queries, sides.gallery)
    domain_names(rules.groups(sides.queries))
    sets = QuerySet.by_rules(rules, sides.searching, sides.searched)
    answerable = np.zeros(len(sides.searching), np.bool_)
    for one in sets:
        answerable[one.query_rows] = one.num_relevant > 0
    if not answerable.any():
        raise NothingToScoreError(
            f"none of the {len(sides.searching):,} queries has another image of its label in the gallery of "
            f"{len(sides.searched):,}. Compare the labels of both (and the domains), or choose other splits."
        )
    scored = to_score(answerable, unanswerable, sides.searching)
    per_query = {metric.name: np.zeros(len(sides.searching)) for metric in wanted}
    sizes = {}
    for one in sets:
        sizes.update(dict.fromkeys(rules.groups(one.queries), len(one.gallery)))
        part = one.answerable()  # the others have 0 in every metric
        for table in tables(part, wanted) if len(part) else ():
            for metric in wanted:
                per_query[metric.name][part.query_rows[table.queries]] = table.value(metric, part.num_relevant)
    own_sizes = {name: size for name, size in sizes.items() if name is not None} if len(sets) > 1 else None
    values = {name: values[scored] for name, values in per_query.items()}
    return gather(values, sides, scored=scored, unanswerable=~answerable, groups=rules.groups, sizes=own_sizes)


def depths(metrics: Sequence[Metric], part: QuerySet) -> Rows:
    """How many ranks the ``metrics`` look at for each query of ``part``, (Q,)."""
    deepest: Rows = np.max([metric.depths(part.num_relevant, len(part.gallery)) for metric in metrics], axis=0)
    return deepest


def check_policies(protocol: ProtocolConfig, ties: str, unanswerable: str) -> None:
    """Raise ValueError where a policy would change nothing, because the protocol settles it."""
    if isinstance(protocol, MetConfig | SmallDataConfig) and (ties, unanswerable) != ("row", "leave_out"):
        raise SettingsError(
            f"protocol {protocol.kind} says itself what counts where similarities tie or nothing is relevant: leave "
            "out ties and unanswerable"
        )


def one_set(queries: Records, gallery: Records) -> Records:
    """The records that the legacy measure searches in themselves. RecordsError where the two differ."""
    if queries.keys != gallery.keys:
        raise RecordsError(
            f"{LEGACY} searches a set in itself: the queries and the gallery must be the same records; got "
            f"{len(queries):,} and {len(gallery):,}. Let dataset.query and dataset.gallery name the same splits."
        )
    return queries
