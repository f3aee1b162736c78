"""Every metric of a run in one call, whoever computes it.

::

    metrics --by name--> by label: evaluate; graded: evaluate_attributes; legacy: evaluate_legacy
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from cache import Features
from cache.errors import SettingsError
from cache.settings import Settings
from stages.ranking.metrics import find_metric
from stages.ranking.ties import AVERAGED, check_averaged
from stages.records import Records
from stages.retrieval.attribute_similarity import attribute_names, check_mixture, check_weights
from stages.retrieval.attributes import LEGACY, AttributeMetric, attributes_of, evaluate_attributes, evaluate_legacy
from stages.retrieval.evaluate import TiePolicy, check_policies, evaluate, one_set
from stages.retrieval.protocols import ByLabelConfig, MetConfig, ProtocolConfig, RankedConfig, SmallDataConfig
from stages.retrieval.recognition import RECOGNITION, check_recognition, check_tuning
from stages.retrieval.rules import column_of
from stages.retrieval.scores import Scores, UnanswerablePolicy, domain_names

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
        return (LEGACY,) if isinstance(self.protocol, SmallDataConfig) else self.protocol.rules().metrics

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
        columns = list(self.ranked.rules().columns) if self.by_label else []
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
        rules = config.ranked.rules()
        rules.check(queries, gallery)
        domain_names(rules.groups(queries))
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
