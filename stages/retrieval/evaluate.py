"""Score a store of features or embeddings on a set of queries and a gallery.

::

    rows by digest -> unit length -> ranks of the relevant rows, block of queries by block -> metrics -> Scores

What is relevant to a query, a protocol says; without one: the gallery rows of the same label. Where records have
domains the domain must be the same too, while the gallery stays one, merged over the domains. Gallery rows without a
label are relevant to nobody: distractors. A query that is itself in the gallery (the same record key) is taken out of
its own ranking; a byte-identical image under another key is another record, and stays.

:func:`score` gives every metric that a run names: by label, by attributes, and the legacy measure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias, get_args

import numpy as np
from pydantic import Field

from cache import Features
from cache.errors import NothingToScoreError, RecordsError, SettingsError
from cache.settings import Settings
from stages.ranking.metrics import Metric, find_metric
from stages.ranking.normalize import unit_length
from stages.ranking.relevance import Rows, Table, relevance_tables
from stages.ranking.ties import AVERAGED, check_averaged
from stages.records import Records
from stages.retrieval.attribute_similarity import attribute_names, check_mixture, check_weights
from stages.retrieval.attributes import LEGACY, AttributeMetric, attributes_of, evaluate_attributes, evaluate_legacy
from stages.retrieval.protocols import (
    ByLabelConfig,
    MetConfig,
    ProtocolConfig,
    RankedConfig,
    RankedProtocol,
    SmallDataConfig,
)
from stages.retrieval.query_set import QuerySet, Sides, column_of
from stages.retrieval.recognition import RECOGNITION, check_recognition, check_tuning, evaluate_recognition
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

    return score_rankings(tables, Sides.in_store(vectors, queries, gallery), metrics, protocol, ties, unanswerable)


def score_rankings(
    tables: Callable[[QuerySet, Sequence[Metric]], Iterator[Table]],
    sides: Sides,
    metrics: Sequence[str] | None,
    protocol: RankedProtocol,
    ties: TiePolicy,
    unanswerable: UnanswerablePolicy,
) -> Scores:
    """The scores of what ``tables`` has, as deep as the metrics look, of the queries that search."""
    wanted = tuple(find_metric(name) for name in dict.fromkeys(protocol.metrics if metrics is None else metrics))
    if not wanted:
        raise SettingsError("metrics must name at least one, got none")
    check_choice("ties", ties, get_args(TiePolicy))
    if ties == AVERAGED:
        for metric in wanted:
            check_averaged(metric)
    protocol.check(sides.queries, sides.gallery)
    domain_names(protocol.groups(sides.queries))
    sets = protocol.query_sets(sides.searching, sides.searched)
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
        sizes.update(dict.fromkeys(protocol.groups(one.queries), len(one.gallery)))
        part = one.answerable()  # the others have 0 in every metric
        for table in tables(part, wanted) if len(part) else ():
            for metric in wanted:
                per_query[metric.name][part.query_rows[table.queries]] = table.value(metric, part.num_relevant)
    own_sizes = {name: size for name, size in sizes.items() if name is not None} if len(sets) > 1 else None
    values = {name: values[scored] for name, values in per_query.items()}
    return gather(values, sides, scored=scored, unanswerable=~answerable, groups=protocol.groups, sizes=own_sizes)


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


USUAL = "usual"


@dataclass(frozen=True)
class ScoringConfig(Settings):
    """What embeddings are scored by.

    Args:
        protocol: which gallery images are relevant, what is searched, and how scores are averaged.
        metrics: names; ``usual`` stands for those of the protocol. That of a metric by attributes may end in ``:`` and
            a name of ``similar``.
        ties: equal similarities by gallery row, or ``expected``: the mean over all of their orders.
        unanswerable: queries to which nothing is relevant are left out of every mean, ``zero`` in it, or an ``error``.
        similar: definitions of similar, by name: a weight for each attribute that counts.

    >>> config = ScoringConfig(metrics=("usual", "graded_map"))
    >>> config.by_label, config.graded
    (['mmp@5', 'map@r', 'hit@1', 'recall@10', 'map'], ['graded_map'])
    """

    protocol: Annotated[ProtocolConfig, Field(discriminator="kind")] = ByLabelConfig()
    metrics: tuple[str, ...] = (USUAL,)
    ties: TiePolicy = "row"
    unanswerable: UnanswerablePolicy = "leave_out"
    similar: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.metrics:
            raise SettingsError("metrics must name at least one")
        named = [self._usual() if name == USUAL else (name,) for name in self.metrics]
        object.__setattr__(self, "metrics", tuple(dict.fromkeys(name for names in named for name in names)))
        for name, weights in self.similar.items():
            try:
                check_mixture(weights)
            except ValueError as error:
                raise SettingsError(f"similar.{name}: {error}") from None
        self._check_by_label()
        check_policies(self.protocol, self.ties, self.unanswerable)
        for metric in self._by_attributes:
            if metric.mixture is not None and metric.mixture not in self.similar:
                raise SettingsError(
                    f"{metric.name} names a definition of similar that is not there: [retrieval.similar] "
                    f"{metric.mixture} = {{ ATTRIBUTE = WEIGHT }}; there are {', '.join(self.similar) or 'none'}"
                )

    def _usual(self) -> tuple[str, ...]:
        if isinstance(self.protocol, MetConfig):
            return RECOGNITION
        return (LEGACY,) if isinstance(self.protocol, SmallDataConfig) else self.protocol.metrics

    def _check_by_label(self) -> None:
        if isinstance(self.protocol, MetConfig):
            if self.by_label:
                check_recognition(self.by_label)
            return
        for name in self.by_label:
            if name in RECOGNITION:
                raise SettingsError(f'{name} is a metric of recognition: protocol = {{ kind = "met" }}')
            metric = find_metric(name)
            if self.ties == AVERAGED:
                check_averaged(metric)

    @property
    def by_label(self) -> list[str]:
        """The metrics of which gallery images are relevant."""
        return [name for name in self.metrics if AttributeMetric.find(name) is None]

    @property
    def _by_attributes(self) -> list[AttributeMetric]:
        return [metric for name in self.metrics if (metric := AttributeMetric.find(name))]

    @property
    def graded(self) -> list[str]:
        """The metrics of how alike the attributes are."""
        return [metric.name for metric in self._by_attributes if not metric.legacy]

    @property
    def legacy(self) -> list[str]:
        """The metrics of :func:`evaluate_legacy`."""
        return [metric.name for metric in self._by_attributes if metric.legacy]

    def columns(self, records: Records) -> tuple[str, ...]:
        """The columns of ``records`` that the scores follow from, beside labels and domains."""
        columns = list(self.ranked.columns) if self.by_label else []
        names = attribute_names(records)
        for metric in self._by_attributes:
            columns += [column_of(name) for name, weight in metric.weights(self.similar, names).items() if weight]
            columns += ["tags"] * metric.legacy
        return tuple(sorted({*columns}))

    @property
    def ranked(self) -> RankedConfig:
        """The protocol that judges rankings: by label where the run's own ranks nothing."""
        return ByLabelConfig() if isinstance(self.protocol, (MetConfig, SmallDataConfig)) else self.protocol


def check_scores(records: Records, config: ScoringConfig) -> None:
    """Raise what :func:`score` would for what the ``records`` lack, before they have vectors."""
    queries, gallery = records.split("query"), records.split("gallery")
    if isinstance(config.protocol, MetConfig):
        check_tuning(config.protocol, (records.split("validation_query"), records.split("validation_gallery")))
    elif config.by_label:
        config.ranked.check(queries, gallery)
        domain_names(config.ranked.groups(queries))
    for metric in filter(None, map(AttributeMetric.find, config.metrics)):
        check_weights(metric.weights(config.similar, attributes_of(queries)), attribute_names(queries))
    if config.legacy:
        one_set(queries, gallery)


def score(vectors: Features, records: Records, config: ScoringConfig) -> Iterator[Scores]:
    """The scores of ``vectors`` by label, by attributes and by the legacy measure, of those that ``config`` names."""
    queries, gallery = records.split("query"), records.split("gallery")
    if config.by_label:
        met = isinstance(config.protocol, MetConfig)
        tuned_on = records.split("validation_query", "validation_query_distractor")
        yield evaluate(
            vectors,
            queries=records.split("query", "query_distractor") if met else queries,
            gallery=gallery,
            metrics=config.by_label,
            protocol=config.protocol if met else config.ranked,
            validation=(tuned_on, records.split("validation_gallery")) if met else None,
            ties=config.ties,
            unanswerable=config.unanswerable,
        )
    if config.graded:
        yield evaluate_attributes(
            vectors,
            queries=queries,
            gallery=gallery,
            metrics=config.graded,
            similar=config.similar,
            unanswerable=config.unanswerable,
        )
    if config.legacy:
        yield evaluate_legacy(vectors, one_set(queries, gallery), metrics=config.legacy, similar=config.similar)
