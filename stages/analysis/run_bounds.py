"""Floor and ceiling of every metric of a run."""

from __future__ import annotations

from collections.abc import Mapping

from cache import Features
from stages.analysis.bounds import score_bounds
from stages.analysis.graded_bounds import attribute_bounds
from stages.records import Records
from stages.retrieval.protocols import MetConfig
from stages.retrieval.run_scores import ScoringConfig


def run_bounds(
    vectors: Features, records: Records, config: ScoringConfig
) -> Mapping[tuple[str, str], tuple[float, float]]:
    """Floor and ceiling by metric and domain, for the images that have a row in ``vectors``.

    None with ``met``, which scores all queries together, by confidence; the legacy measure brings its own as scores.
    """
    if isinstance(config.protocol, MetConfig):
        return {}
    sides = (records.split(role) for role in ("query", "gallery"))
    queries, gallery = (side.take(side.rows_in(vectors)) for side in sides)
    policy, rules = config.unanswerable, config.ranked.rules()
    by_label = score_bounds(queries, gallery, config.by_label, rules, unanswerable=policy)
    if not config.graded:
        return by_label
    return dict(attribute_bounds(queries, gallery, config.graded, config.similar, unanswerable=policy)) | dict(by_label)
