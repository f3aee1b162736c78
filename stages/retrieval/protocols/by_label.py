"""Protocols in which labels say everything: what is searched differs, and the metrics that are usual."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from cache.errors import RecordsError
from stages.ranking.relevance import Judgement
from stages.records import Records
from stages.retrieval.attribute_similarity import attribute_names
from stages.retrieval.protocols.rules import Rules, in_the_gallery, not_in_the_gallery
from stages.retrieval.relevance import by_labels, has_labels


@dataclass(frozen=True)
class ByLabelConfig:
    """Relevant is what has the same label, within the domain; whoever is a query and in the gallery is left out.

    ``labels`` names an attribute, or ``tags``, with several labels of an image, a JSON list or with ``|`` between them:
    relevant is then what has at least one in common.
    """

    kind: Literal["by_label"] = "by_label"
    labels: str | None = None

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def rules(self) -> Rules:
        """The rules."""
        metrics = ("mmp@5", "map@r", "hit@1", "map")
        if self.labels is None:
            return Rules(metrics)
        return Rules(metrics, judge=partial(_sharing, self.labels), check=partial(_check_labels, self.labels))


@dataclass(frozen=True)
class LeaveOneOutConfig:
    """Every image of the test classes searches for the others of its class among all of them.

    CUB, Cars196, Stanford Online Products, iNaturalist 2018. The usual ranks are 1, 2, 4, 8 (CUB, Cars), 1, 10, 100,
    1000 (SOP) and 1, 4, 16, 32 (iNaturalist); recall@k of those papers is ``hit@k`` here.
    """

    kind: Literal["leave_one_out"] = "leave_one_out"
    ks: tuple[int, ...] = (1, 2, 4, 8)

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        check_ks(self.ks)

    def rules(self) -> Rules:
        """The rules."""
        return Rules((*(f"hit@{k}" for k in self.ks), "map@r"), check=in_the_gallery)


@dataclass(frozen=True)
class QueryGalleryConfig:
    """Queries search a gallery of other images.

    In-Shop (``hit@1``, 10, 20, 30) and the Google Universal Image Embedding Challenge (``mmp@5``).
    """

    kind: Literal["query_gallery"] = "query_gallery"
    ks: tuple[int, ...] = (1, 10, 20, 30)

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        check_ks(self.ks)

    def rules(self) -> Rules:
        """The rules."""
        return Rules(("mmp@5", *(f"hit@{k}" for k in self.ks)), check=not_in_the_gallery)


@dataclass(frozen=True)
class Products10kConfig:
    """Each test image is given the product of the nearest training image: top-1."""

    kind: Literal["products10k"] = "products10k"

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def rules(self) -> Rules:
        """The rules."""
        return Rules(("hit@1",), check=not_in_the_gallery)


@dataclass(frozen=True)
class UnedConfig:
    """UnED: eight domains, told one by one and as their mean, every domain the same weight.

    ``gallery`` is ``merged`` (every query searches all domains, the benchmark's standard) or ``separate`` (its own).
    An image of several landmarks (``attributes.landmarks``) is relevant to a query that shows any of them. The query
    is taken out by its key; the paper's code drops the first hit, whatever it is.
    """

    kind: Literal["uned"] = "uned"
    gallery: Literal["merged", "separate"] = "merged"

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def rules(self) -> Rules:
        """The rules."""
        searched: Literal["merged", "own"] = "merged" if self.gallery == "merged" else "own"
        return Rules(("hit@1", "mmp@5"), judge=partial(_sharing, "landmarks"), searched=searched)


def check_ks(ks: tuple[int, ...]) -> None:
    """Raise ValueError unless ``ks`` are different whole numbers from 1."""
    if not ks or min(ks) < 1 or len({*ks}) < len(ks):
        raise ValueError(f"ks are ranks, different whole numbers from 1, at least one, got {list(ks)}")


def _check_labels(names: str, queries: Records, gallery: Records) -> None:
    for role, records in (("queries", queries), ("gallery", gallery)):
        if not has_labels(records, names):
            known = ", ".join(attribute_names(records)) or "none"
            raise RecordsError(
                f"the {role} have no attribute {names!r} to compare labels by; there are {known}: "
                "dataset.attributes = [...] lists the columns"
            )


def _sharing(attribute: str, queries: Records, gallery: Records) -> Judgement:
    return Judgement(by_labels(queries, gallery, attribute))
