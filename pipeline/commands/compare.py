"""``permafrost compare``: say how much better one run or head is than another, and which queries changed most."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cache.errors import ConfigError, StaleStoreError
from pipeline.commands.options import Json, Quiet, emit
from pipeline.config import read_config
from pipeline.dataset import run_of
from pipeline.progress import Display
from pipeline.scores import scored_data, values_key
from pipeline.vectors import find_vectors
from pipeline.views.comparison import comparison_lines, comparison_text
from stages.analysis import changes
from stages.analysis.comparison import ScoredRun, data_notes, matching_heads, outdated
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
    images: dict[str, tuple[str, str | None]] = {}
    for queries in (run.records.split("query") for run in (one, other)):
        images |= dict(zip(queries.keys, zip(queries.uris, queries.labels, strict=True), strict=True))
    for heads in matching_heads(one, other, backbone):
        differences = changes(one.values.of(*heads[0]), other.values.of(*heads[1]), one.domains | other.domains)
        listed = metric or next(iter(differences.shared))
        if listed not in differences.shared:
            raise ConfigError(f"{listed!r} is not a metric of both; these are: {', '.join(differences.shared)}")
        domains = [change.domain for change in differences.changes if change.metric == listed]
        among = [None, *(domain for domain in domains if domain not in ("all", "mean"))]
        moved = {domain: differences.moved(listed, top, domain) for domain in among}
        sides = [(run.name, *names) for run, names in zip((one, other), heads, strict=True)]
        text = comparison_text(differences, sides, moved, images, listed)
        emit(json, text, *comparison_lines(differences, sides, moved, images))
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
