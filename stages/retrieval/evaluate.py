"""Score a store of features or embeddings on a set of queries and a gallery.

::

    rows by digest -> unit length -> ranks of the relevant rows, block of queries by block -> metrics -> Scores

What is relevant to a query, a protocol says; without one: the gallery rows of the same label. Where records have
domains the domain must be the same too, while the gallery stays one, merged over the domains. Gallery rows without a
label are relevant to nobody: distractors. A query that is itself in the gallery (the same record key) is taken out of
its own ranking; a byte-identical image under another key is another record, and stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cache import Features
from cache.errors import RecordsError
from stages.ranking.normalize import unit_length
from stages.ranking.tables import Table, relevance_tables
from stages.ranking.tie_averaging import AVERAGED
from stages.records import Records
from stages.retrieval.attributes import LEGACY, evaluate_legacy
from stages.retrieval.gallery import Sides
from stages.retrieval.protocols import ByLabelConfig, MetConfig, ProtocolConfig, SmallDataConfig
from stages.retrieval.protocols.protocol_defaults import check_policies
from stages.retrieval.query_set import QuerySet
from stages.retrieval.recognition import RECOGNITION, evaluate_recognition
from stages.retrieval.scores import Scores, UnanswerablePolicy
from stages.retrieval.scoring import Scoring, TiePolicy


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
        metrics: names as :func:`find_metric` takes them; by default those of the protocol.
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
        return evaluate_recognition(
            vectors,
            queries=queries,
            gallery=gallery,
            protocol=protocol,
            validation=validation,
            metrics=RECOGNITION if metrics is None else metrics,
        )
    if isinstance(protocol, SmallDataConfig):
        return evaluate_legacy(
            vectors,
            one_set(queries, gallery),
            metrics=(LEGACY,) if metrics is None else metrics,
        )
    scoring = Scoring.of(metrics, protocol.rules(), ties, unanswerable)

    def tables(part: QuerySet, depth: int) -> Iterator[Table]:
        return relevance_tables(
            unit_length(vectors.read(part.gallery.digests)),
            unit_length(vectors.read(part.queries.digests)),
            part.judged,
            part.itself,
            depth,
            tied=ties == AVERAGED,
        )

    return scoring.score(tables, Sides.in_store(vectors, queries, gallery))


def one_set(queries: Records, gallery: Records) -> Records:
    """The records that the legacy measure searches in themselves. RecordsError where the two differ."""
    if queries.keys != gallery.keys:
        raise RecordsError(
            f"{LEGACY} searches a set in itself: the queries and the gallery must be the same records; got "
            f"{len(queries):,} and {len(gallery):,}. Let dataset.query and dataset.gallery name the same splits."
        )
    return queries
