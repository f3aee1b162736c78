"""Two runs that kept the value of every query: whether they can be compared, and which heads are.

::

    values of two runs --the same data and stores as now?--> --the same gallery?--> pairs of heads --> changes
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import NamedTuple, TypeAlias

from cache.errors import ConfigError
from stages.records import Records
from stages.retrieval.query_values import TRUTH, QueryValues

HeadName: TypeAlias = tuple[str, str]
"""A backbone and a head."""


class ScoredRun(NamedTuple):
    """A run with the values that it kept, and the head that was asked for (None: every one)."""

    name: str
    head: str | None
    records: Records
    values: QueryValues

    @property
    def domains(self) -> dict[str, str | None]:
        """The domain of each query, by key."""
        queries = self.records.split("query")
        return dict(zip(queries.keys, queries.domains, strict=True))


def outdated(values: QueryValues, data: Mapping[str, str], embeddings: Mapping[tuple[str, str], str]) -> list[str]:
    """How ``values`` differ from the ``data`` and the ``embeddings`` (by backbone and head) as they are now."""
    differences = [
        f"{key}: scored {_short(values.data.get(key))}, now {_short(data.get(key))}"
        for key in {**data, **values.data}
        if values.data.get(key) != data.get(key)
    ]
    for backbone, head in values.heads():
        scored, current = values.embeddings(backbone, head), embeddings.get((backbone, _embedded_by(head, embeddings)))
        if scored != current:
            differences.append(f"embeddings of {backbone} {head}: scored {_short(scored)}, now {_short(current)}")
    return differences


def _embedded_by(row: str, embeddings: Iterable[HeadName]) -> str:
    """The head whose embeddings a ``row`` scores: ``a (ivf_pq)``, ``a (text)`` and ``a + alpha_qe`` are those of a."""
    names = {head for _, head in embeddings}
    return max(
        (head for head in names if row == head or row.startswith((f"{head} (", f"{head} + "))), key=len, default=row
    )


def data_notes(one: ScoredRun, other: ScoredRun, *, other_gallery: bool) -> list[str]:
    """What a person should know of the two galleries. ConfigError where they differ and no ``other_gallery`` may be."""
    notes = []
    if one.values.data["gallery"] != other.values.data["gallery"]:
        summary = _difference(one.records.split("gallery"), other.records.split("gallery"))
        if not other_gallery:
            raise ConfigError(
                f"A and B searched different galleries: {summary}. A query is easier in a smaller one, so their "
                "difference would be of galleries too. Score both on the same, or say --other-gallery."
            )
        notes.append(f"A and B searched different galleries: {summary}. The difference is of galleries too")
    if one.values.data["retrieval"] != other.values.data["retrieval"]:
        first, second = one.values.data["retrieval"], other.values.data["retrieval"]
        notes.append(f"A and B were searched or scored in different ways ([retrieval]): {first} and {second}")
    truths = [side.values.data.get(TRUTH, "labels") for side in (one, other)]
    if truths[0] != truths[1]:
        notes.append(f"A and B are scored by different ground truths: {' and '.join(truths)}")
    if one.values.data["queries"] != other.values.data["queries"]:
        summary = _difference(one.records.split("query"), other.records.split("query"))
        notes.append(f"A and B have different queries: {summary}. Those of both are compared")
    return notes


def matching_heads(one: ScoredRun, other: ScoredRun, backbone: str | None) -> list[tuple[HeadName, HeadName]]:
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
    every = list(product(sides[0], sides[1]))
    pairs = [
        (first, second)
        for first, second in every
        if (one.head or other.head or first[1] == second[1]) and first[0] == second[0]
    ]
    if all(len({name for name, _ in heads}) == 1 for heads in sides):
        pairs = pairs or every  # another backbone on each side
    if (one.name, one.head) == (other.name, other.head):
        raise ConfigError("A and B are the same scores; name a head of each: RUN.TOML:raw RUN.TOML:HEAD")
    if not pairs:
        stems = " and ".join(f"{run.name}:{run.head}" if run.head else run.name for run in (one, other))
        raise ConfigError(f"{stems} share no backbone and head; name a head of each: RUN.TOML:HEAD")
    return pairs


def _short(text: str | None) -> str:
    return "(absent)" if text is None else text[:8] if len(text) == 64 and " " not in text else text


def _difference(one: Records, other: Records) -> str:
    sides = ((side.keys, zip(side.digests, side.classes, strict=True)) for side in (one, other))
    first, second = (dict(zip(keys, images, strict=True)) for keys, images in sides)
    both = first.keys() & second.keys()
    counts = {
        "only in A": len(first) - len(both),
        "only in B": len(second) - len(both),
        "with other bytes": sum(first[key][0] != second[key][0] for key in both),
        "with another label": sum(first[key][1] != second[key][1] for key in both),
    }
    summary = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    return f"{len(first):,} and {len(second):,} images, {summary}"
