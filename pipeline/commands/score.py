"""``permafrost score``: stage 3: search the gallery for every query, and score raw features beside every head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, cast, get_args

import typer

from cache.atomic import unless_read_only
from cache.errors import ConfigError
from cache.storage import is_url
from pipeline.commands.options import Json, Quiet, RunFile, emit
from pipeline.config import RAW, RunConfig
from pipeline.dataset import Run, open_run
from pipeline.scores import json_lines, score_run
from pipeline.vectors import Vectors, find_vectors, with_rows
from pipeline.views.contact_sheet import draw_nearest
from pipeline.views.leaderboard import score_table, table_by_metric
from stages.analysis import paired_difference
from stages.analysis.sizes import ClassSize, stored_by_class_size
from stages.retrieval.query_values import QueryValues


def score(
    run_file: RunFile,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Scores by class_size (in the gallery) or training_class_size too. Can be given again."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Stage 3: search the gallery for every query, and score raw features beside every head."""
    for size in by or []:
        if size not in get_args(ClassSize):
            raise ConfigError(f"--by is one of {', '.join(get_args(ClassSize))}, got {size!r}")
    run = open_run(run_file, quiet=quiet)
    vectors = find_vectors(run)
    run = with_rows(run, vectors)
    values = print_scores(run, vectors, json=json)
    if by:
        lines = [line for size in by for line in stored_by_class_size(values, run.records, cast("ClassSize", size))]
        with unless_read_only(run.display.warn):
            run.storage.put(f"scores/{run.name}.groups.jsonl", json_lines(lines).encode())
        emit(json, f"\n{_group_table(lines)}", *lines)


def _group_table(lines: Sequence[dict[str, Any]]) -> str:
    """A table for each of what scores are grouped by: a line a head and group, a column a metric."""
    tables = []
    for by in dict.fromkeys(line["by"] for line in lines):
        part = [line for line in lines if line["by"] == by]
        where = "in the gallery, itself not counted" if by == "class_size" else "that heads were trained on"
        where += "; [95 % interval over classes]"
        columns = {"backbone": "backbone", "head": "head", "images": "group"}
        title = f"by the number of images of the query's class {where}"
        tables += [title, *table_by_metric(part, columns, ("queries", "classes")), ""]
    return "\n".join(tables).rstrip()


def print_scores(run: Run, vectors: Sequence[Vectors], *, json: bool) -> QueryValues:
    """Score ``vectors``, print the table or JSON lines, and draw a picture of queries with their nearest images.

    The picture is of the first backbone with a head, raw and with each of its heads. Last it says where no head is
    surely above the raw feature. Returns the value of every query.
    """
    rows, values = score_run(run, vectors)
    emit(json, score_table(rows), *(row._asdict() for row in rows))
    backbone = next((entry.backbone for entry in vectors if entry.trained is not None), vectors[0].backbone)
    first = [entry for entry in vectors if entry.backbone == backbone]
    path = run.scratch / "scores" / f"{run.name}.png"
    if any(run.records.uris):
        with unless_read_only(run.display.warn):
            draw_nearest(path, run.records, first, title=f"{run.name}: queries sampled with a fixed seed, {backbone}")
            if is_url(run.config.artifacts):
                run.storage.put(f"scores/{path.name}", path.read_bytes())
            where = run.storage.address(f"scores/{path.name}")
            run.display.say(f"some queries with their nearest images: {where}")
    if (verdict := no_surer_head(run.config, values)) is not None:
        run.display.say(verdict)
    return values


def _to_try(config: RunConfig) -> str:
    """What this run does not do yet."""
    ideas = []
    if not any(getattr(head.recipe.start, "kind", "") == "discriminant" for head in config.heads):
        ideas.append('recipe = "default"')
    networks = [backbone for backbone in config.backbones if backbone.kind != "precomputed"]
    if networks and not any(getattr(backbone, "blocks", ()) for backbone in networks):
        ideas.append("blocks = [-2, -1]")
    if networks and all(getattr(backbone.preprocess, "views", None) is None for backbone in networks):
        ideas.append("mirror images (preprocess.views)")
    ideas.append("a stronger backbone, or more classes to train on")
    return f"To try: {', '.join(ideas)}. `--head raw` searches with the feature itself."


def no_surer_head(config: RunConfig, values: QueryValues) -> str | None:
    """What to say where no head of the run is surely above the best raw feature; None where one is.

    By the first metric, query by query: surely above is where the 95 % interval of the difference is above 0.
    """
    heads = {head.name for head in config.heads}
    first = {entry: values.of(*entry)[0] for entry in values.heads() if entry[1] == RAW or entry[1] in heads}
    means = {entry: next(iter(scores.per_query.values())).mean() for entry, scores in first.items()}
    raws = [entry for entry in first if entry[1] == RAW]
    trained = [entry for entry in first if entry[1] != RAW]
    if not raws or not trained:
        return None
    raw = max(raws, key=lambda entry: means[entry])
    gains = {entry: paired_difference(first[entry], first[raw])[0] for entry in trained}
    if any(gain.low > 0 for gain in gains.values()):
        return None
    best = max(trained, key=lambda entry: gains[entry].value)
    gain = gains[best]
    interval = f"{gain.value:+.3f} {gain.metric} (95 % interval {gain.low:+.3f} to {gain.high:+.3f})"
    return (
        f"no head is surely above the raw feature of {raw[0]}: {best[1]} on {best[0]} has {interval}. {_to_try(config)}"
    )
