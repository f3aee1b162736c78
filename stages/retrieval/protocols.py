"""Protocols of evaluation: each says who is relevant, what is searched, and what is reported.

To add one: a frozen dataclass of :class:`RankedProtocol` with a ``kind`` and what differs, and its name in
``RankedConfig``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, TypeAlias

import numpy as np

from cache.errors import RecordsError, SettingsError
from cache.settings import Choices, Settings, Within
from stages.ranking.relevance import Judgement
from stages.records import Records
from stages.retrieval.attribute_similarity import attribute_names
from stages.retrieval.query_set import (
    Names,
    QuerySet,
    by_keys,
    check_lists,
    column_of,
    has_attribute,
    same_class,
    sharing,
)

__all__ = [
    "ByLabelConfig", "Gldv2Config", "IliasConfig", "LeaveOneOutConfig", "ListedConfig", "MetConfig",
    "Products10kConfig", "ProtocolConfig", "QueryGalleryConfig", "RankedConfig", "RankedProtocol", "RevisitedConfig",
    "SmallDataConfig", "UnedConfig",
]  # fmt: skip


Ranks: TypeAlias = Annotated[tuple[int, ...], Choices("[1, inf]", "one or more ranks, different whole numbers")]


class RankedProtocol(Settings):
    """A protocol that scores which ranks hold something relevant: by default those of the same label and domain.

    ``usual`` is what is scored where nobody says otherwise, ``hit@k`` at every rank of ``ks``. With ``labels`` relevant
    is what has any of several in common. Each query searches one ``merged`` gallery, or that of its own domain where
    they are ``separate``. Every query must be in the gallery with ``leaves_one_out``, and none where that is False.
    Scores are ``reported_by`` domain, or by the values of an attribute.
    """

    usual: Names = ()
    ks: tuple[int, ...] = ()
    labels: str | None = None
    gallery: str = "merged"
    leaves_one_out: bool | None = None
    reported_by: str = "domain"

    def lists(self) -> tuple[Names, Names]:
        """The attributes that list the keys of relevant images, and of junk; none where labels say what is relevant."""
        return (), ()

    @property
    def metrics(self) -> Names:
        """What is scored where nobody says otherwise."""
        hits = tuple(f"hit@{k}" for k in self.ks)
        return tuple(each for name in self.usual for each in (hits if name == "hit@k" else (name,)))

    @property
    def columns(self) -> Names:
        """What is read of the records beside labels and domains."""
        grouped = () if self.reported_by == "domain" else (self.reported_by,)
        several = () if self.labels is None else (self.labels,)
        return tuple(column_of(name) for names in (*self.lists(), several, grouped) for name in names)

    def judge(self, queries: Records, gallery: Records) -> Judgement:
        """What counts, for the queries and the gallery rows that have a vector."""
        relevant, junk = self.lists()
        if relevant:
            ignored = by_keys(queries, gallery.keys, junk) if junk else None
            return Judgement(by_keys(queries, gallery.keys, relevant), ignored)
        return same_class(queries, gallery) if self.labels is None else sharing(self.labels, queries, gallery)

    def query_sets(self, queries: Records, gallery: Records) -> list[QuerySet]:
        """One for a merged gallery, or one for each domain that is searched by itself."""
        if self.gallery == "merged":
            return [QuerySet.of(queries, gallery, self.judge)]
        domains = [np.array(records.domains, dtype=object) for records in (queries, gallery)]
        sets = []
        for domain in dict.fromkeys(queries.domains):
            own, searched = (np.flatnonzero(of_side == domain) for of_side in domains)
            part = QuerySet.of(queries.take(own), gallery.take(searched), self.judge)
            sets.append(replace(part, query_rows=own, gallery_rows=searched))
        return sets

    def check(self, queries: Records, gallery: Records) -> None:
        """Raise RecordsError where the queries and the gallery, all of them, are not those of the protocol."""
        relevant, junk = self.lists()
        if relevant:
            check_lists(relevant, junk, queries, gallery)
        if self.leaves_one_out is None:
            return
        known = set(gallery.keys)
        wrong = [key for key in queries.keys if (key in known) != self.leaves_one_out]
        count = f"{len(wrong):,} of {len(queries):,} queries are"
        if wrong and self.leaves_one_out:
            raise RecordsError(
                f"leave-one-out searches a set in itself, and {count} not in the gallery, the first {wrong[0]!r}: let "
                "dataset.query and dataset.gallery name the same splits, or choose "
                'protocol = { kind = "query_gallery" }'
            )
        if wrong:
            raise RecordsError(
                f"the protocol has a gallery apart from the queries, and {count} in it, the first {wrong[0]!r}: give "
                'each a split of its own, or choose protocol = { kind = "leave_one_out" }'
            )

    def groups(self, records: Records) -> Sequence[str | None]:
        """The group of each record (N,) by which its score is reported."""
        if self.reported_by == "domain":
            return records.domains
        if self.reported_by not in attribute_names(records):
            raise RecordsError(
                f"the protocol reports scores by the attribute {self.reported_by!r}, which the records have not: "
                "dataset.attributes = [...] lists the columns"
            )
        return records.attribute(self.reported_by)


@dataclass(frozen=True)
class ByLabelConfig(RankedProtocol):
    """Relevant is what has the same label, within the domain; whoever is a query and in the gallery is left out.

    ``labels`` names an attribute, or ``tags``, with several labels of an image, a JSON list or with ``|`` between them:
    relevant is then what has at least one in common.

    Args:
        labels: the attribute, or ``tags``, with the labels of an image; left out, the label itself.
    """

    kind: Literal["by_label"] = "by_label"
    labels: str | None = None
    usual = ("mmp@5", "map@r", "hit@1", "recall@10", "map")

    def check(self, queries: Records, gallery: Records) -> None:
        if self.labels is not None:
            has_attribute(self.labels, queries, gallery)


@dataclass(frozen=True)
class LeaveOneOutConfig(RankedProtocol):
    """Every image of the test classes searches for the others of its class among all of them.

    CUB, Cars196, Stanford Online Products, iNaturalist 2018. The usual ranks are 1, 2, 4, 8 (CUB, Cars), 1, 10, 100,
    1000 (SOP) and 1, 4, 16, 32 (iNaturalist); recall@k of those papers is ``hit@k`` here.

    Args:
        ks: the ranks of ``hit@k``.
    """

    kind: Literal["leave_one_out"] = "leave_one_out"
    ks: Ranks = (1, 2, 4, 8)
    usual = ("hit@k", "map@r")
    leaves_one_out = True


@dataclass(frozen=True)
class QueryGalleryConfig(RankedProtocol):
    """Queries search a gallery of other images.

    In-Shop (``hit@1``, 10, 20, 30) and the Google Universal Image Embedding Challenge (``mmp@5``).

    Args:
        ks: the ranks of ``hit@k``.
    """

    kind: Literal["query_gallery"] = "query_gallery"
    ks: Ranks = (1, 10, 20, 30)
    usual = ("mmp@5", "hit@k")
    leaves_one_out = False


@dataclass(frozen=True)
class Products10kConfig(RankedProtocol):
    """Each test image is given the product of the nearest training image: top-1."""

    kind: Literal["products10k"] = "products10k"
    usual = ("hit@1",)
    leaves_one_out = False


@dataclass(frozen=True)
class UnedConfig(RankedProtocol):
    """UnED: eight domains, told one by one and as their mean, every domain the same weight.

    ``gallery`` is ``merged`` (every query searches all domains, the benchmark's standard) or ``separate`` (its own).
    An image of several landmarks (``attributes.landmarks``) is relevant to a query that shows any of them. The query
    is taken out by its key; the paper's code drops the first hit, whatever it is.

    Args:
        gallery: ``merged``: every query searches all domains; ``separate``: its own.
    """

    kind: Literal["uned"] = "uned"
    gallery: Literal["merged", "separate"] = "merged"
    usual = ("hit@1", "mmp@5")
    labels = "landmarks"


@dataclass(frozen=True)
class ListedConfig(RankedProtocol):
    """Relevant, and junk, are the gallery images whose keys the query lists in attributes, as JSON.

    INSTRE, and whatever a table has in such columns.

    Args:
        relevant: the attributes that list the keys of relevant images.
        junk: the attributes that list the keys of images to take out of the ranking.
    """

    kind: Literal["listed"] = "listed"
    relevant: Names = ("relevant",)
    junk: Names = ()
    usual = ("map",)

    def __post_init__(self) -> None:
        if not self.relevant:
            raise SettingsError("relevant names the attributes that list relevant keys, at least one")

    def lists(self) -> tuple[Names, Names]:
        return self.relevant, self.junk


@dataclass(frozen=True)
class RevisitedConfig(RankedProtocol):
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

    Args:
        level: which images are relevant, and which are junk.
    """

    kind: Literal["revisited"] = "revisited"
    level: Literal["easy", "medium", "hard"] = "medium"
    usual = ("map_trapezoid", "mp@1", "mp@5", "mp@10")

    def lists(self) -> tuple[Names, Names]:
        return {
            "easy": (("easy",), ("junk", "hard")),
            "medium": (("easy", "hard"), ("junk",)),
            "hard": (("hard",), ("junk", "easy")),
        }[self.level]


@dataclass(frozen=True)
class Gldv2Config(RankedProtocol):
    """Google Landmarks v2 retrieval: mAP@100 of min(R, 100), by the part of the solution that a query is in."""

    kind: Literal["gldv2"] = "gldv2"
    usual = ("map@100/min",)
    reported_by = "usage"

    def lists(self) -> tuple[Names, Names]:
        return ("relevant",), ()


@dataclass(frozen=True)
class IliasConfig(RankedProtocol):
    """ILIAS: mAP@1k of min(R, 1000) of the same object among distractors, which have no label."""

    kind: Literal["ilias"] = "ilias"
    usual = ("map@1000/min",)


@dataclass(frozen=True)
class MetConfig(Settings):
    """The Met dataset: k nearest neighbours name the exhibit; queries of no exhibit are asked too.

    The class of the nearest image is predicted. Its confidence is a softmax over all classes of the gallery of
    temperature x the greatest similarity of the class among the neighbours, 0 for a class that is not among them.
    Numbers that are not given are tuned on the validation queries by GAP, as the paper does.

    Args:
        kind: of protocol.
        neighbours: how many nearest images are looked at.
        temperature: what similarities are multiplied by (the paper's code calls it that; it divides nothing).
    """

    kind: Literal["met"] = "met"
    neighbours: Annotated[int | None, Within("[1, inf]", "a number of images")] = None
    temperature: Annotated[float | None, Within("(0, inf)")] = None


@dataclass(frozen=True)
class SmallDataConfig(Settings):
    """The measure of "Boosting image retrieval with accurately labelled small data": a set searched in itself.

    :mod:`stages.retrieval.attributes` has it; it comes with the score of a perfect ranking, and of one by chance.
    """

    kind: Literal["small_data"] = "small_data"


RankedConfig: TypeAlias = (
    ByLabelConfig
    | LeaveOneOutConfig
    | QueryGalleryConfig
    | Products10kConfig
    | UnedConfig
    | RevisitedConfig
    | Gldv2Config
    | IliasConfig
    | ListedConfig
)
"""A protocol that scores which ranks hold something relevant."""

ProtocolConfig: TypeAlias = RankedConfig | MetConfig | SmallDataConfig
"""Any protocol; ``kind`` tells them apart."""
