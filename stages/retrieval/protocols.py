"""Protocols of evaluation: each says in ``rules()`` who is relevant, what is searched, and what is reported.

To add one: a frozen dataclass with a ``kind`` and ``rules``, and its name in ``RankedConfig``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, TypeAlias

from cache.errors import SettingsError
from cache.settings import Choices, Settings, Within
from stages.retrieval.rules import (
    Names,
    Rules,
    column_of,
    has_attribute,
    in_the_gallery,
    listing,
    not_in_the_gallery,
    sharing,
)

__all__ = [
    "ByLabelConfig", "Gldv2Config", "IliasConfig", "LeaveOneOutConfig", "ListedConfig", "MetConfig",
    "Products10kConfig", "ProtocolConfig", "QueryGalleryConfig", "RankedConfig", "RevisitedConfig", "Rules",
    "SmallDataConfig", "UnedConfig",
]  # fmt: skip


Ranks: TypeAlias = Annotated[tuple[int, ...], Choices("[1, inf]", "one or more ranks, different whole numbers")]


@dataclass(frozen=True)
class ByLabelConfig(Settings):
    """Relevant is what has the same label, within the domain; whoever is a query and in the gallery is left out.

    ``labels`` names an attribute, or ``tags``, with several labels of an image, a JSON list or with ``|`` between them:
    relevant is then what has at least one in common.

    Args:
        labels: the attribute, or ``tags``, with the labels of an image; left out, the label itself.
    """

    kind: Literal["by_label"] = "by_label"
    labels: str | None = None

    def rules(self) -> Rules:
        """By label, or by any of several labels."""
        metrics = ("mmp@5", "map@r", "hit@1", "recall@10", "map")
        if self.labels is None:
            return Rules(metrics)
        judge, check = partial(sharing, self.labels), partial(has_attribute, self.labels)
        return Rules(metrics, judge=judge, check=check, columns=(column_of(self.labels),))


@dataclass(frozen=True)
class LeaveOneOutConfig(Settings):
    """Every image of the test classes searches for the others of its class among all of them.

    CUB, Cars196, Stanford Online Products, iNaturalist 2018. The usual ranks are 1, 2, 4, 8 (CUB, Cars), 1, 10, 100,
    1000 (SOP) and 1, 4, 16, 32 (iNaturalist); recall@k of those papers is ``hit@k`` here.

    Args:
        ks: the ranks of ``hit@k``.
    """

    kind: Literal["leave_one_out"] = "leave_one_out"
    ks: Ranks = (1, 2, 4, 8)

    def rules(self) -> Rules:
        """By label, every query in the gallery."""
        return Rules((*(f"hit@{k}" for k in self.ks), "map@r"), check=in_the_gallery)


@dataclass(frozen=True)
class QueryGalleryConfig(Settings):
    """Queries search a gallery of other images.

    In-Shop (``hit@1``, 10, 20, 30) and the Google Universal Image Embedding Challenge (``mmp@5``).

    Args:
        ks: the ranks of ``hit@k``.
    """

    kind: Literal["query_gallery"] = "query_gallery"
    ks: Ranks = (1, 10, 20, 30)

    def rules(self) -> Rules:
        """By label, no query in the gallery."""
        return Rules(("mmp@5", *(f"hit@{k}" for k in self.ks)), check=not_in_the_gallery)


@dataclass(frozen=True)
class Products10kConfig(Settings):
    """Each test image is given the product of the nearest training image: top-1."""

    kind: Literal["products10k"] = "products10k"

    def rules(self) -> Rules:
        """By label, no query in the gallery."""
        return Rules(("hit@1",), check=not_in_the_gallery)


@dataclass(frozen=True)
class UnedConfig(Settings):
    """UnED: eight domains, told one by one and as their mean, every domain the same weight.

    ``gallery`` is ``merged`` (every query searches all domains, the benchmark's standard) or ``separate`` (its own).
    An image of several landmarks (``attributes.landmarks``) is relevant to a query that shows any of them. The query
    is taken out by its key; the paper's code drops the first hit, whatever it is.

    Args:
        gallery: ``merged``: every query searches all domains; ``separate``: its own.
    """

    kind: Literal["uned"] = "uned"
    gallery: Literal["merged", "separate"] = "merged"

    def rules(self) -> Rules:
        """By label or landmark, in one gallery or in that of the domain."""
        judge, columns = partial(sharing, "landmarks"), (column_of("landmarks"),)
        return Rules(("hit@1", "mmp@5"), judge=judge, searched=self.gallery, columns=columns)


@dataclass(frozen=True)
class ListedConfig(Settings):
    """Relevant, and junk, are the gallery images whose keys the query lists in attributes, as JSON.

    INSTRE, and whatever a table has in such columns.

    Args:
        relevant: the attributes that list the keys of relevant images.
        junk: the attributes that list the keys of images to take out of the ranking.
    """

    kind: Literal["listed"] = "listed"
    relevant: Names = ("relevant",)
    junk: Names = ()

    def __post_init__(self) -> None:
        if not self.relevant:
            raise SettingsError("relevant names the attributes that list relevant keys, at least one")

    def rules(self) -> Rules:
        """By the lists."""
        return listing(("map",), self.relevant, self.junk)


@dataclass(frozen=True)
class RevisitedConfig(Settings):
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

    def rules(self) -> Rules:
        """By the lists of the level."""
        relevant, junk = {
            "easy": (("easy",), ("junk", "hard")),
            "medium": (("easy", "hard"), ("junk",)),
            "hard": (("hard",), ("junk", "easy")),
        }[self.level]
        return listing(("map_trapezoid", "mp@1", "mp@5", "mp@10"), relevant, junk)


@dataclass(frozen=True)
class Gldv2Config(Settings):
    """Google Landmarks v2 retrieval: mAP@100 of min(R, 100), by the part of the solution that a query is in."""

    kind: Literal["gldv2"] = "gldv2"

    def rules(self) -> Rules:
        """By the lists of the solution."""
        return listing(("map@100/min",), ("relevant",), reported_by="usage")


@dataclass(frozen=True)
class IliasConfig(Settings):
    """ILIAS: mAP@1k of min(R, 1000) of the same object among distractors, which have no label."""

    kind: Literal["ilias"] = "ilias"

    def rules(self) -> Rules:
        """By label."""
        return Rules(("map@1000/min",))


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

    :mod:`stages.retrieval.legacy` has it; it comes with the score of a perfect ranking, and of one by chance.
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
