"""``permafrost compare``: say how much better one run or head is than another, and which queries changed most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from cache.errors import ConfigError, StaleStoreError
from pipeline.commands.options import Json, Quiet, emit
from pipeline.config import read_config
from pipeline.dataset import run_of
from pipeline.progress import Display, aligned
from pipeline.scores import scored_data, values_key
from pipeline.vectors import find_vectors
from stages.analysis import Changes, Moved, changes
from stages.analysis.comparison import ScoredRun, data_notes, matching_heads, outdated
from stages.retrieval.protocols import MetConfig
from stages.retrieval.query_values import read_query_values, scored_numbers

_SIDE = "RUN.TOML[:HEAD]"
_NAMED = 3  # queries that only one side has, by name

_Moved: TypeAlias = Mapping[str | None, Sequence[Moved]]  # the queries that changed most, of all and of each domain
_Images: TypeAlias = Mapping[str, tuple[str, str | None]]  # the image and the label of each query


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
        text = _text(differences, sides, moved, images, listed)
        emit(json, text, *_lines(differences, sides, moved, images))
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


def _lines(
    differences: Changes, sides: Sequence[tuple[str, str, str]], moved: _Moved, images: _Images
) -> list[dict[str, Any]]:
    """A line for each metric and domain (``change``), each listed query, and each query that only one has."""
    names: dict[str, Any] = {}
    for letter, (run, backbone, head) in zip("ab", sides, strict=True):
        names |= {letter: run, f"{letter}_backbone": backbone, f"{letter}_head": head}
    lines = [{"kind": "change"} | names | change._asdict() for change in differences.changes]
    for domain, queries in moved.items():
        for query in queries:
            uri, label = images[query.key]
            line = {"kind": "moved"} | names | {"among": domain or "all"} | query._asdict()
            lines.append(line | {"value": query.value, "uri": uri, "label": label})
    for letter, unmatched in (("a", differences.only_first), ("b", differences.only_second)):
        for metric, keys in unmatched.items():
            lines += [{"kind": "unmatched", "only_in": letter, "metric": metric, "key": key} for key in keys]
    return lines


def _text(
    differences: Changes, sides: Sequence[tuple[str, str, str]], moved: _Moved, images: _Images, listed: str
) -> str:
    """The changes as a table, the queries that only one has, and those that changed most."""
    lines = [f"{letter}: {run} {head} on {backbone}" for letter, (run, backbone, head) in zip("AB", sides, strict=True)]
    by_domain = any(change.domain != "all" for change in differences.changes)
    header = ["metric", *(["domain"] if by_domain else []), "A", "B", "B - A", "95 % interval", "better", "worse"]
    table = [[*header, "same", "queries"]]
    for change in sorted(differences.changes, key=lambda change: list(differences.shared).index(change.metric)):
        names = [change.metric, *([change.domain] if by_domain else [])]
        surely = "*" if change.low > 0 or change.high < 0 else " "
        values = f"{change.first:.4f}", f"{change.second:.4f}", f"{change.value:+.4f}"
        counts = (f"{count:,}" for count in (change.better, change.worse, change.same, change.queries))
        table.append([*names, *values, f"[{change.low:+.4f}, {change.high:+.4f}] {surely}", *counts])
    lines += aligned(table, texts=2 if by_domain else 1)
    lines.append("interval over classes of the mean difference of the same queries; * it does not hold 0")
    for which, other, unmatched in (("A", "B", differences.only_first), ("B", "A", differences.only_second)):
        for metric, keys in unmatched.items():
            if keys:
                named = ", ".join(keys[:_NAMED]) + (", ..." if len(keys) > _NAMED else "")
                lines.append(f"{metric}: {len(keys):,} queries of {which} that {other} has not are left out: {named}")
    for domain, queries in moved.items():
        if queries:
            rows = [["query", "label", "image", "A", "B", "B - A"]]
            for query in queries:
                image, label = images[query.key]
                values = f"{query.first:.3f}", f"{query.second:.3f}", f"{query.value:+.3f}"
                rows.append([query.key, label or "-", image, *values])
            where = f" in {domain}" if domain else ""
            lines += ["", f"the queries that changed most by {listed}{where}", *aligned(rows, texts=3)]
    return "\n".join(lines)
