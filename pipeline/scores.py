"""Stage 3 of a run file: search and score, and what the scores follow from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from cache.atomic import replace_text
from cache.settings import changed_settings
from pipeline.approximate_scores import approximate_scores
from pipeline.dataset import Run
from pipeline.score_rows import ScoreRow, json_lines
from pipeline.vectors import Vectors
from stages.analysis.run_bounds import run_bounds
from stages.retrieval import Scores
from stages.retrieval.query_values import Scored, data_of, scored_numbers, write_query_values
from stages.retrieval.run_scores import score

_NOT_OF_A_SCORE = {"metrics", "gallery_sizes", "distractors"}  # [retrieval]: what changes no single value


def score_run(run: Run, vectors: Sequence[Vectors]) -> list[ScoreRow]:
    """Stage 3: search and score; also written to ``scores/<run>.jsonl``, and query by query to ``<run>.parquet``."""
    records, retrieval = run.records, run.config.retrieval
    rows, scored = [], []
    known: dict[bytes, Mapping[tuple[str, str], tuple[float, float]]] = {}  # bounds, by which images there are
    for entry in vectors:
        usable = entry.store.usable(records.digests).tobytes()
        if usable not in known:
            known[usable] = run_bounds(entry.store, records, retrieval)
        bounds = known[usable]
        numbers = scored_numbers(entry.store, records)
        exact = ((entry.head, scores) for scores in score(entry.store, records, retrieval))
        for head, scores in chain(exact, approximate_scores(run, entry)):
            scored.append(Scored(entry.backbone, head, numbers, scores))
            rows += [
                ScoreRow(entry.backbone, head, one.domain, one.metric, one.value, one.low, one.high, one.queries,
                         one.gallery, numbers, *bounds.get((one.metric, one.domain), ()))
                for one in scores
            ]  # fmt: skip
            if left_out := _left_out(scores):
                run.display.warn(f"{entry.backbone} {head}: left out: {left_out}")
    path = run.artifacts / "scores" / f"{run.name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_query_values(path.with_suffix(".parquet"), scored, scored_data(run))
    replace_text(path, json_lines(rows))
    return rows


def scored_data(run: Run) -> dict[str, str]:
    """What the scores of a run follow from beside the embeddings."""
    changed = changed_settings(run.config.retrieval)
    settings = {key: value for key, value in changed.items() if key not in _NOT_OF_A_SCORE}
    return data_of(run.records.split("query", "query_distractor"), run.records.split("gallery"), settings)


def _left_out(scores: Scores) -> str:
    counts = {
        "failed queries": scores.failed_queries,
        "failed gallery images": scores.failed_gallery,
        "queries with nothing relevant in the gallery": scores.unanswerable,
    }
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
