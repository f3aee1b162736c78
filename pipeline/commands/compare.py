"""The command ``compare``: the last scores of two run files, or two heads of one, query by query.

::

    RUN.TOML[:HEAD] --scores/<run>.parquet--> values --checked against the data and stores of now--> changes
"""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cache.errors import ConfigError, StaleStoreError
from pipeline.commands.options import Json, Quiet
from pipeline.config import RunConfig, read_config
from pipeline.dataset import read_dataset
from pipeline.progress import Display
from pipeline.scores import scored_data
from pipeline.vectors import find_vectors
from pipeline.views.tables import aligned
from stages.analysis import Change, Changes, Moved, changes
from stages.records import Records
from stages.retrieval.protocols import MetConfig
from stages.retrieval.query_values import QueryValues, read_query_values

_SIDE = "RUN.TOML[:HEAD]"
_NAMED = 3  # queries that only one side has, by name


@dataclass(frozen=True)
class Side:
    """A run with the scores that it kept, and the head that was asked for (None: every one)."""

    name: str
    head: str | None
    config: RunConfig
    records: Records
    values: QueryValues

    @property
    def stem(self) -> str:
        """The run file and the head, as they were typed."""
        return f"{self.name}:{self.head}" if self.head else self.name


@dataclass(frozen=True)
class Compared:
    """One backbone and head of A with one of B."""

    first: tuple[str, str]
    second: tuple[str, str]
    changes: Changes


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
    sides: list[Side] = []
    for text in (first, second):
        same = next((side for side in sides if side.name == _parsed(text)[0]), None)
        sides.append(_side(text, head, display, same))
    one, other = sides
    notes = _galleries(one, other, allowed=other_gallery)
    for pair in _pairs(one, other, backbone):
        (of_one, of_other) = pair
        differences = changes(
            one.values.of(*of_one),
            other.values.of(*of_other),
            _domains(one) | _domains(other),
        )
        compared = Compared(of_one, of_other, differences)
        listed = metric or next(iter(differences.shared))
        if listed not in differences.shared:
            raise ConfigError(f"{listed!r} is not a metric of both; these are: {', '.join(differences.shared)}")
        text = json_lines(compared, listed, top, sides) if json else _text(compared, listed, top, sides)
        typer.echo(text, nl=not json)
    for note in notes:
        display.warn(f"note: {note}")


def _parsed(text: str) -> tuple[str, str | None]:
    """The run file and the head of ``RUN.TOML[:HEAD]``."""
    if Path(text).exists():
        return text, None
    path, _, head = text.rpartition(":")
    return (path, head or None) if path else (text, None)


def _side(text: str, head: str | None, display: Display, same: Side | None) -> Side:
    """What ``text`` names; its run is read once where both sides are of one."""
    name, own = _parsed(text)
    if same is not None:
        return Side(name, own or head, same.config, same.records, same.values)
    config = read_config(name)
    if isinstance(config.retrieval.protocol, MetConfig):
        raise ConfigError(f"{name}: scores of recognition are of all queries together, and cannot be compared by query")
    records = read_dataset(config, display)
    values = read_query_values(Path(config.artifacts) / "scores" / f"{Path(name).stem}.parquet")
    _check_fresh(values, name, config, records, display)
    return Side(name, own or head, config, records, values)


def _check_fresh(values: QueryValues, name: str, config: RunConfig, records: Records, display: Display) -> None:
    """StaleStoreError where the data, or the embeddings, are no longer those that were scored."""
    now = scored_data(config, records)
    differences = [
        f"{key}: scored {_short(values.data.get(key))}, now {_short(value)}"
        for key, value in now.items()
        if values.data.get(key) != value
    ]
    stores = {(each.backbone, each.head): each.store.fingerprint for each in find_vectors(config, records, display)}
    known = set(stores.values())
    for backbone, head in values.heads():
        scored = values.embeddings(backbone, head)
        if scored not in known:
            current = _short(stores.get((backbone, head)))
            differences.append(f"embeddings of {backbone} {head}: scored {_short(scored)}, now {current}")
    if differences:
        raise StaleStoreError(values.path, differences, f"Score again: `permafrost score {name}`.")


def _short(text: str | None) -> str:
    return "(absent)" if text is None else text[:8] if len(text) == 64 and " " not in text else text


def _galleries(one: Side, other: Side, *, allowed: bool) -> list[str]:
    """What a person should know of the two galleries. ConfigError where they differ and that is not ``allowed``."""
    notes = []
    if one.values.data["gallery"] != other.values.data["gallery"]:
        summary = _difference(one.records.split("gallery"), other.records.split("gallery"))
        if not allowed:
            raise ConfigError(
                f"A and B searched different galleries: {summary}. A query is easier in a smaller one, so their "
                "difference would be of galleries too. Score both on the same, or say --other-gallery."
            )
        notes.append(f"A and B searched different galleries: {summary}. The difference is of galleries too")
    if one.values.data["retrieval"] != other.values.data["retrieval"]:
        first, second = one.values.data["retrieval"], other.values.data["retrieval"]
        notes.append(f"A and B were searched or scored in different ways ([retrieval]): {first} and {second}")
    if one.values.data["queries"] != other.values.data["queries"]:
        summary = _difference(one.records.split("query"), other.records.split("query"))
        notes.append(f"A and B have different queries: {summary}. Those of both are compared")
    return notes


def _difference(one: Records, other: Records) -> str:
    """How two sets of records differ."""
    first, second = (
        dict(zip(records.keys, zip(records.digests, records.classes, strict=True), strict=True))
        for records in (one, other)
    )
    both = first.keys() & second.keys()
    counts = {
        "only in A": len(first) - len(both),
        "only in B": len(second) - len(both),
        "with other bytes": sum(first[key][0] != second[key][0] for key in both),
        "with another label": sum(first[key][1] != second[key][1] for key in both),
    }
    summary = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    return f"{len(first):,} and {len(second):,} images, {summary}"


def _pairs(one: Side, other: Side, backbone: str | None) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Which backbone and head of A goes with which of B: of the same backbone and head, as far as none is named."""
    sides = [
        [(name, head) for name, head in side.values.heads() if side.head in (None, head) and backbone in (None, name)]
        for side in (one, other)
    ]
    for side, heads in zip((one, other), sides, strict=True):
        if not heads:
            there = ", ".join(f"{head} on {name}" for name, head in side.values.heads())
            wanted = side.head or "any head"
            raise ConfigError(f"{side.name} has no scores of {wanted} on {backbone or 'any backbone'}; it has {there}")
    pairs = [
        (first, second)
        for first in sides[0]
        for second in sides[1]
        if (one.head or other.head or first[1] == second[1]) and first[0] == second[0]
    ]
    if not pairs and all(len({name for name, _ in heads}) == 1 for heads in sides):
        pairs = [(first, second) for first in sides[0] for second in sides[1]]  # another backbone on each side
    if (one.name, one.head) == (other.name, other.head):
        raise ConfigError("A and B are the same scores; name a head of each: RUN.TOML:raw RUN.TOML:HEAD")
    if not pairs:
        raise ConfigError(f"{one.stem} and {other.stem} share no backbone and head; name a head of each: RUN.TOML:HEAD")
    return pairs


def _domains(side: Side) -> dict[str, str | None]:
    queries = side.records.split("query")
    return dict(zip(queries.keys, queries.domains, strict=True))


def _seen(sides: Sequence[Side]) -> dict[str, tuple[str, str | None]]:
    """The image and the label of each query of either side."""
    images: dict[str, tuple[str, str | None]] = {}
    for side in sides:
        queries = side.records.split("query")
        images |= dict(zip(queries.keys, zip(queries.uris, queries.labels, strict=True), strict=True))
    return images


def json_lines(compared: Compared, listed: str, top: int, sides: Sequence[Side]) -> str:
    """A line for each metric and domain (``change``), each listed query, and each query that only one has."""
    seen, differences = _seen(sides), compared.changes
    names = {
        "a": sides[0].name, "a_backbone": compared.first[0], "a_head": compared.first[1],
        "b": sides[1].name, "b_backbone": compared.second[0], "b_head": compared.second[1],
    }  # fmt: skip
    lines: list[dict[str, Any]] = [{"kind": "change"} | names | change._asdict() for change in differences.changes]
    for domain, moved in _listed(differences, listed, top):
        lines += [
            {"kind": "moved"} | names | {"among": domain or "all"} | query._asdict()
            | {"value": query.value, "uri": seen[query.key][0], "label": seen[query.key][1]}
            for query in moved
        ]  # fmt: skip
    for which, keys in (("a", differences.only_first), ("b", differences.only_second)):
        lines += [
            {"kind": "unmatched", "only_in": which, "metric": metric, "key": key}
            for metric, unmatched in keys.items()
            for key in unmatched
        ]
    return "".join(json_module.dumps(line) + "\n" for line in lines)


def _listed(differences: Changes, metric: str, top: int) -> list[tuple[str | None, list[Moved]]]:
    """The queries that changed most, of all and of each domain."""
    domains = [
        change.domain
        for change in differences.changes
        if change.metric == metric and change.domain not in ("all", "mean")
    ]
    return [(domain, differences.moved(metric, top, domain)) for domain in (None, *domains)]


def _text(compared: Compared, listed: str, top: int, sides: Sequence[Side]) -> str:
    differences = compared.changes
    lines = [
        f"{letter}: {side.name} {head} on {backbone}"
        for letter, side, (backbone, head) in zip("AB", sides, (compared.first, compared.second), strict=True)
    ]
    by_domain = any(change.domain != "all" for change in differences.changes)
    header = ["metric", *(["domain"] if by_domain else []), "A", "B", "B - A", "95 % interval", "better", "worse"]
    table = [[*header, "same", "queries"]]
    table += [
        [change.metric, *([change.domain] if by_domain else []),
         f"{change.first:.4f}", f"{change.second:.4f}", f"{change.value:+.4f}",
         f"[{change.low:+.4f}, {change.high:+.4f}]{_mark(change)}",
         *(f"{count:,}" for count in (change.better, change.worse, change.same, change.queries))]
        for change in sorted(differences.changes, key=lambda change: list(differences.shared).index(change.metric))
    ]  # fmt: skip
    lines += aligned(table, texts=2 if by_domain else 1)
    lines.append("interval over classes of the mean difference of the same queries; * it does not hold 0")
    for which, other, unmatched in (("A", "B", differences.only_first), ("B", "A", differences.only_second)):
        for metric, keys in unmatched.items():
            if keys:
                named = ", ".join(keys[:_NAMED]) + (", ..." if len(keys) > _NAMED else "")
                lines.append(f"{metric}: {len(keys):,} queries of {which} that {other} has not are left out: {named}")
    seen = _seen(sides)
    for domain, moved in _listed(differences, listed, top):
        if not moved:
            continue
        lines += ["", f"the queries that changed most by {listed}{f' in {domain}' if domain else ''}"]
        rows = [["query", "label", "image", "A", "B", "B - A"]]
        rows += [
            [
                query.key,
                seen[query.key][1] or "-",
                seen[query.key][0],
                f"{query.first:.3f}",
                f"{query.second:.3f}",
                f"{query.value:+.3f}",
            ]
            for query in moved
        ]
        lines += aligned(rows, texts=3)
    return "\n".join(lines)


def _mark(change: Change) -> str:
    return " *" if change.low > 0 or change.high < 0 else "  "
