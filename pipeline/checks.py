"""What a run asks for that its records or backbones cannot give: refused before the first image is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from cache.errors import ConfigError, NothingToScoreError, RecordsError, SettingsError
from cache.features import fused_name
from pipeline.dataset import Run
from pipeline.features import sources_of
from stages.extraction import Backbone
from stages.ranking.relevance import own_rows
from stages.records import Records
from stages.retrieval import AutoIndexConfig, FlatIndexConfig
from stages.retrieval.evaluate import check_scores
from stages.retrieval.indexes.auto import FEWEST_QUERIES, too_few_queries
from stages.retrieval.protocols import MetConfig
from stages.training.training_inputs import check_records

_SIZES = 3  # features that the proportions of an image are


def check_run(run: Run) -> None:
    """Raise what training a head and scoring would raise later, as far as the records show it.

    Images without any label are extracted and searched: then nothing is asked of labels.
    """
    if not run.records.has_labels:
        return
    train = run.records.split("train")
    for head in run.config.heads:
        with of_head(head.name):
            check_records(train, head.recipe)
    queries, gallery = run.records.split("query"), run.records.split("gallery")
    if not len(queries) or not len(gallery):
        return
    retrieval = run.config.retrieval
    check_scores(run.records, retrieval)
    if not isinstance(retrieval.index, FlatIndexConfig) or retrieval.rerank:
        check_by_label(run)
    if isinstance(retrieval.index, AutoIndexConfig):
        _check_auto(run, gallery)


def check_backbones(run: Run, backbones: Sequence[Backbone]) -> None:
    """Raise where a head names a backbone that is not there, or is larger than the features of its backbones allow."""
    dims = {backbone.name: backbone.dim for backbone in backbones}
    if len(dims) < len(backbones) or not run.records.has_labels:
        return  # stores of one name are called by their folders
    for head in run.config.heads:
        for sources in sources_of(head, list(dims)):
            dim = sum(dims[name] for name in sources) + _SIZES * head.sizes
            if (closed_form := head.recipe.closed_form) is not None and closed_form.dim > dim:
                raise SettingsError(
                    f"{head.name} on {fused_name(sources, sizes=head.sizes)}: dim is {closed_form.dim:,}, but features "
                    f"of {dim:,} dimensions give {closed_form.kind} at most {dim:,}: set dim to {dim:,} or less"
                )


def check_by_label(run: Run) -> None:
    """Raise ConfigError where an index or a post-processing has nothing to be scored by."""
    if not run.config.retrieval.by_label or isinstance(run.config.retrieval.protocol, MetConfig):
        raise ConfigError(
            "retrieval.index and retrieval.rerank are scored as rankings by label: name such a metric (and a protocol "
            "other than met), or leave them out"
        )


@contextmanager
def of_head(name: str) -> Iterator[None]:
    """Errors of the records and settings begin with the ``name`` of the head that they are of."""
    try:
        yield
    except (RecordsError, SettingsError) as error:
        raise type(error)(f"{name}: {error}") from error


def _check_auto(run: Run, gallery: Records) -> None:
    judge = run.config.retrieval.ranked.judge
    counts = []
    for queries in (run.records.split("validation_query"), gallery):
        relevant = judge(queries, gallery).num_relevant(own_rows(queries.keys, gallery.keys))
        counts.append(int(np.count_nonzero(relevant)))
    if max(counts) < FEWEST_QUERIES:
        raise NothingToScoreError(too_few_queries(max(counts)))
