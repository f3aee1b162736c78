"""The commands that say how far to trust a score: ``compare``, ``gallery-sizes``, ``threshold`` and ``health``."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from cache.atomic import unless_read_only
from cache.errors import ConfigError, SettingsError, StaleStoreError
from pipeline.commands.options import Head, Json, OneBackbone, Quiet, RunFile, emit
from pipeline.config import read_config
from pipeline.dataset import Run, open_run, read_dataset, remarks, run_of
from pipeline.progress import Display
from pipeline.scores import scored_data, values_key
from pipeline.thresholds import keep_decisions
from pipeline.vectors import Vectors, choose_vectors, find_chosen, find_vectors
from pipeline.views.trust import (
    comparison_json,
    comparison_text,
    curve_lines,
    curve_table,
    health_lines,
    health_text,
    threshold_lines,
    threshold_text,
)
from stages.analysis import changes, gallery_curve
from stages.analysis.bounds import run_bounds
from stages.analysis.compared_runs import ScoredRun, data_notes, matching_heads, outdated
from stages.analysis.health import NEAR_DUPLICATE, Health, check_health
from stages.analysis.open_set import Kind
from stages.analysis.sizes import further_distractors
from stages.analysis.thresholds import Decision, Ground, choose_thresholds, decision_at
from stages.retrieval import AttributeMetric
from stages.retrieval.protocols import MetConfig
from stages.retrieval.query_values import read_query_values, scored_numbers

_SIDE = "RUN.TOML[:HEAD]"


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help=f"The one before: {_SIDE}.")],
    second: Annotated[str, typer.Argument(metavar="B", help=f"The one after: {_SIDE}.")],
    head: Annotated[str | None, typer.Option(help="The head of both sides, or raw, where a side names none.")] = None,
    backbone: Annotated[str | None, typer.Option(help="The backbone of both sides, by default every shared.")] = None,
    metric: Annotated[str | None, typer.Option(help="What queries are listed by; by default the first metric.")] = None,
    top: Annotated[int, typer.Option(min=0, help="How many queries that changed most to list.")] = 10,
    other_gallery: Annotated[
        bool, typer.Option("--other-gallery", help="Compare although the galleries differ; the result says so.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say how much better B is than A over the same queries, how surely, and which queries changed most."""
    display = Display(quiet=quiet)
    one = _scored_run(first, head, display)
    other = _scored_run(second, head, display, one)
    notes = data_notes(one, other, other_gallery=other_gallery)
    for heads in matching_heads(one, other, backbone):
        differences = changes(one.values.of(*heads[0]), other.values.of(*heads[1]), one.domains | other.domains)
        listed = metric or next(iter(differences.shared))
        if listed not in differences.shared:
            raise ConfigError(f"{listed!r} is not a metric of both; these are: {', '.join(differences.shared)}")
        shown = comparison_json if json else comparison_text
        typer.echo(shown(differences, heads, listed, top, (one, other)), nl=not json)
    for note in notes:
        display.warn(f"note: {note}")


def _scored_run(text: str, head: str | None, display: Display, before: ScoredRun | None = None) -> ScoredRun:
    """What ``text`` names; a run that was read ``before`` is not read again. StaleStoreError where it has changed."""
    name, _, own = text.rpartition(":")
    if not name or "/" in own or Path(text).exists():
        name, own = text, ""
    if before is not None and before.name == name:
        return before._replace(head=own or head)
    config = read_config(name)
    if isinstance(config.retrieval.protocol, MetConfig):
        raise ConfigError(f"{name}: scores of recognition are of all queries together, and cannot be compared by query")
    run = run_of(config, display, name)
    values = read_query_values(run.storage, values_key(run))
    stores = {(each.backbone, each.head): scored_numbers(each.store, run.records) for each in find_vectors(run)}
    if differences := outdated(values, scored_data(run), stores):
        where = run.storage.address(values_key(run))
        raise StaleStoreError(where, differences, f"Score again: `permafrost score {name}`.")
    return ScoredRun(name, own or head, run.records, values)


def gallery_sizes(
    run_file: RunFile,
    size: Annotated[
        list[float] | None,
        typer.Option(min=0, help="A share of the gallery, or above 1 a number of distractors. Can be given again."),
    ] = None,
    distractors: Annotated[
        list[str] | None,
        typer.Option(help="A value of the split column with further distractors. Can be given again."),
    ] = None,
    head: Head = None,
    backbone: OneBackbone = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score the same queries in galleries of several sizes: what a small gallery hides."""
    run = open_run(run_file, quiet=quiet)
    vectors = [each for each in find_vectors(run) if backbone in (None, each.backbone)]
    if head is not None or not vectors:
        vectors = [choose_vectors(run, vectors, head, backbone)]
    config, records, retrieval = run.config, run.records, run.config.retrieval
    sizes, values = size or retrieval.gallery_sizes, distractors or retrieval.distractors
    metrics = [name for name in retrieval.metrics if AttributeMetric.find(name) is None]
    if not metrics or isinstance(retrieval.protocol, MetConfig):
        raise ConfigError("a gallery-size curve takes a metric of rankings by label: [retrieval] metrics names none")
    lines: list[dict[str, Any]] = []
    for each in vectors:
        run.display.say(f"searching galleries of {len(sizes)} sizes with {each.backbone} {each.head}")
        curve = gallery_curve(
            each.store,
            queries=records.split("query"),
            gallery=records.split("gallery"),
            sizes=sizes,
            metrics=metrics,
            further=further_distractors(records, values) if values else None,
            rules=retrieval.ranked.rules(),
            seed=config.seed,
        )
        if curve.left_out:
            run.display.warn(f"{curve.left_out:,} further distractors are of a class that searches: left out")
        lines += curve_lines(curve, each)
    text = "".join(json_module.dumps(line) + "\n" for line in lines)
    key = f"scores/{run.name}.gallery_sizes.jsonl"
    typer.echo(text if json else curve_table(lines), nl=not json)
    with unless_read_only(run.display.warn):
        run.storage.put(key, text.encode())
        run.display.say(f"also in {run.storage.address(key)}")


_LARGER = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
WANTED: tuple[tuple[Kind, float], ...] = (("fmr", 0.001), ("fpir", 0.1))


def threshold(
    run_file: RunFile,
    fmr: Annotated[
        list[float] | None, typer.Option(help="A wanted false match rate of comparisons. Can be given again.")
    ] = None,
    fpir: Annotated[
        list[float] | None,
        typer.Option(help="A wanted false-positive identification rate of searches. Can be given again."),
    ] = None,
    head: Head = None,
    backbone: OneBackbone = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Choose the similarity below which there is no match, and say how often that is wrong. `search` uses it."""
    wanted: list[tuple[Kind, float]] = [("fmr", rate) for rate in fmr or []]
    wanted += [("fpir", rate) for rate in fpir or []]
    for kind, rate in wanted:
        if not 0 < rate < 1:
            raise ConfigError(f"--{kind} is a rate between 0 and 1, such as 0.01, got {rate:g}")
    run = open_run(run_file, quiet=quiet)
    chosen = find_chosen(run, head, backbone)
    decisions, refused, on = choose_thresholds(chosen.store, run.records, run.config.seed, wanted or WANTED)
    if not wanted:
        decisions += _of_larger_rates(decisions, on, run.display)
    if not decisions:
        raise SettingsError("\n".join(refused))
    lines = (line for decision in decisions for line in threshold_lines(decision, chosen, on))
    emit(json, threshold_text(decisions, chosen, on), *lines)
    with unless_read_only(run.display.warn):
        path = keep_decisions(run, chosen, decisions, on)
        run.display.say(f"kept for `permafrost search --fmr` and `--fpir`: {path}")
    if refused and wanted:
        raise SettingsError("\n".join(refused))
    for reason in refused:  # of the rates that are tried when none is named
        run.display.warn(f"note: {reason}")


def _of_larger_rates(chosen: list[Decision], on: Ground, display: Display) -> list[Decision]:
    """For each kind that its default rate was refused for, the smallest usual rate that the images are enough for."""
    decisions: list[Decision] = []
    kinds = {decision.kind for decision in chosen}
    for kind, rate in ((kind, rate) for kind, rate in WANTED if kind not in kinds):
        for larger in (usual for usual in _LARGER if usual > rate):
            with suppress(SettingsError):
                decisions.append(decision_at(kind, larger, on))
                display.say(f"{kind} {larger:g} is the smallest usual rate that the images are enough for")
                break
    return decisions


def health(
    run_file: RunFile,
    head: Head = None,
    backbone: OneBackbone = None,
    top: Annotated[int, typer.Option(min=0, help="How many to list of each finding.")] = 10,
    near_duplicate: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Cosine similarity from which two images are one; by default 0.98."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look for what makes scores wrong: copies across splits, labels, hubs, dead dimensions, failed images."""
    config = read_config(run_file)
    run = Run(run_file, config, read_dataset(config, Display(quiet=True, warnings=False)), Display(quiet=quiet))
    report = health_of_run(run, find_vectors(run), head, backbone, near_duplicate or NEAR_DUPLICATE)
    emit(json, health_text(report, top), *health_lines(report))


def health_of_run(
    run: Run,
    vectors: Sequence[Vectors],
    head: str | None = None,
    backbone: str | None = None,
    near_duplicate: float = NEAR_DUPLICATE,
) -> Health:
    """The health of the records, and of what :func:`choose_vectors` takes beside the raw feature it is made from."""
    chosen = choose_vectors(run, vectors, head, backbone)
    features = {each.backbone: each for each in vectors if each.trained is None}
    raw = features.get(chosen.backbone, chosen)
    return check_health(
        run.records,
        {(each.backbone, each.head): each.store for each in (raw, chosen)},
        near_duplicate,
        backbones={name: each.store for name, each in features.items()},
        remarks=remarks(run.config, run.records, run.records.counts()),
        bounds=run_bounds(raw.store, run.records, run.config.retrieval),
        on_step=run.display.say,
    )
