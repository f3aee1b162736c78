"""Protocols whose ground truth lists gallery images query by query, rather than by label."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from cache.errors import RecordsError
from stages.ranking.relevance import Judgement
from stages.records import Records
from stages.retrieval.protocols.rules import Rules, same_class
from stages.retrieval.relevance import by_keys, json_lists

Names = tuple[str, ...]


@dataclass(frozen=True)
class ListedConfig:
    """Relevant, and junk, are the gallery images whose keys the query lists in attributes, as JSON.

    INSTRE, and whatever a table has in such columns.
    """

    kind: Literal["listed"] = "listed"
    relevant: Names = ("relevant",)
    junk: Names = ()

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if not self.relevant:
            raise ValueError("relevant names the attributes that list relevant keys, at least one")

    def rules(self) -> Rules:
        """The rules."""
        return listing(("map",), self.relevant, self.junk)


@dataclass(frozen=True)
class RevisitedConfig:
    """Revisited Oxford and Paris (Radenovic et al., 2018).

    ============  ================  ================
    ``level``     relevant          junk
    ============  ================  ================
    ``easy``      easy              junk and hard
    ``medium``    easy and hard     junk
    ``hard``      hard              junk and easy
    ============  ================  ================

    Junk is taken out of the ranking. mAP is the area under the curve by trapezoids, and queries with nothing relevant
    are left out. The million distractors are gallery images that no query lists.
    """

    kind: Literal["revisited"] = "revisited"
    level: Literal["easy", "medium", "hard"] = "medium"

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def rules(self) -> Rules:
        """The rules."""
        relevant, junk = {
            "easy": (("easy",), ("junk", "hard")),
            "medium": (("easy", "hard"), ("junk",)),
            "hard": (("hard",), ("junk", "easy")),
        }[self.level]
        return listing(("map_trapezoid", "mp@1", "mp@5", "mp@10"), relevant, junk)


@dataclass(frozen=True)
class Gldv2Config:
    """Google Landmarks v2 retrieval: mAP@100 of min(R, 100), by the part of the solution that a query is in."""

    kind: Literal["gldv2"] = "gldv2"

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def rules(self) -> Rules:
        """The rules."""
        return listing(("map@100/min",), ("relevant",), (), reported_by="usage")


@dataclass(frozen=True)
class IliasConfig:
    """ILIAS: mAP@1k of min(R, 1000) of the same object among distractors, which have no label."""

    kind: Literal["ilias"] = "ilias"

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def rules(self) -> Rules:
        """The rules."""
        return Rules(("map@1000/min",), judge=same_class)


def listing(metrics: Names, relevant: Names, junk: Names, reported_by: str = "domain") -> Rules:
    """Rules by lists of keys in attributes."""
    return Rules(
        metrics,
        judge=partial(_judge, relevant, junk),
        check=partial(_check, relevant, junk),
        reported_by=reported_by,
    )


def _judge(relevant: Names, junk: Names, queries: Records, gallery: Records) -> Judgement:
    ignored = by_keys(queries, gallery.keys, junk) if junk else None
    return Judgement(by_keys(queries, gallery.keys, relevant), ignored)


def _check(relevant: Names, junk: Names, queries: Records, gallery: Records) -> None:
    """Raise RecordsError where the lists are not there, or not of this gallery."""
    lists = [json_lists(queries, name) for name in relevant]
    if not any(values is not None for column in lists for values in column):
        raise RecordsError(
            f"none of the {len(queries):,} queries has attributes.{' or attributes.'.join(relevant)}, a JSON list of "
            'keys of the gallery, by which this protocol judges. By labels judges protocol = { kind = "by_label" }.'
        )
    known = set(gallery.keys)
    ignored = [json_lists(queries, name) for name in junk]
    for at, key in enumerate(queries.keys):
        names = [name for column in lists for name in column[at] or ()]
        if unknown := [name for name in names if name not in known]:
            raise RecordsError(
                f"query {key!r} lists {unknown[0]!r} as relevant, which is no key of the gallery ({len(known):,} "
                "images). Score against all of the benchmark's gallery, as the one dataset of a run: where several are "
                "joined, keys are others."
            )
        if both := {*names}.intersection(name for column in ignored for name in column[at] or ()):
            raise RecordsError(f"query {key!r} lists {min(both)!r} both as relevant and as junk")
