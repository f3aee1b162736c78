"""The rows that choose an epoch, held-out classes or some of every class, and its score: mMP@5 of a search there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cache import Features
from cache.errors import NothingToScoreError
from stages.ranking import own_rows, values_by_class
from stages.records import Records
from stages.records.splits import label_domains
from stages.training.rows.labelled_rows import gather

_SHARED = 4  # rows of a class of which some can be held out: two search each other, two are trained on
HOLDABLE = 5
"""With fewer classes none is held out: too few would be left on one side."""

TELLING = 5
"""Fewer held-out classes than this cannot show whether training improves on its start."""


def held_rows(labels: Sequence[str | None], share: float, rng: np.random.Generator) -> npt.NDArray[np.bool_] | None:
    """True for ``share`` of the rows of each class of ``labels`` (N,), two at least of a class of four or more.

    It is for heads whose queries are of trained classes. Smaller classes are not held out. None where no class is large
    enough.
    """
    held = np.zeros(len(labels), np.bool_)
    names = np.array(["" if label is None else label for label in labels], dtype=object)
    for name in sorted(set(names)):
        rows = np.flatnonzero(names == name)
        if share > 0 and len(rows) >= _SHARED:
            held[rng.permutation(rows)[: max(2, round(share * len(rows)))]] = True
    return held if held.any() else None


def held_out(
    labels: Sequence[str | None], domains: Sequence[str | None], share: float, rng: np.random.Generator
) -> npt.NDArray[np.bool_] | None:
    """True for all rows (N,) of ``share`` of the classes, of at least two; a label is one class in all its domains.

    Only classes of two rows in one domain are held out: one row has nothing to match. None where fewer than five have.
    """
    searchable = list(label_domains(labels, domains))
    if share == 0 or len(searchable) < HOLDABLE:
        return None
    count = max(2, round(share * len(searchable)))
    chosen = {searchable[place] for place in rng.permutation(len(searchable))[:count]}
    return np.array([label in chosen for label in labels], dtype=np.bool_)


_ROWS = 16_384  # that a network is given at once


@dataclass(frozen=True)
class ValidationSet:
    """Features of Q queries and G gallery rows, their labels as integers, and each query's own gallery row or -1."""

    queries: Tensor
    gallery: Tensor
    query_labels: Tensor
    gallery_labels: Tensor
    own: Tensor
    domains: tuple[str, ...] = ()
    """Of each query, (Q,); "" where it has none."""

    def score(self, network: Callable[[Tensor], Tensor]) -> float:
        """The mMP@5 of what ``network`` makes of the features."""
        return float(self._precisions(network).nanmean())

    def by_domain(self, network: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """:meth:`score` of the queries of each domain, where any of them has something to find."""
        precision = self._precisions(network)
        members = {name: [domain == name for domain in self.domains] for name in sorted({*self.domains})}
        scores = {name: float(precision[torch.tensor(chosen)].nanmean()) for name, chosen in members.items()}
        return {name: score for name, score in scores.items() if score == score}  # NaN: nothing to find

    def _precisions(self, network: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.inference_mode():
            gallery = torch.cat([network(block) for block in torch.split(self.gallery, _ROWS)])
            queries = gallery
            if self.queries is not self.gallery:
                queries = torch.cat([network(block) for block in torch.split(self.queries, _ROWS)])
            return mmp5(queries, gallery, self.query_labels, self.gallery_labels, self.own)


def validation_set(features: Features, queries: Records, gallery: Records) -> ValidationSet:
    """Gather what it takes to search ``queries`` in ``gallery``; both may be the same records (leave-one-out).

    Queries without a label are left out. Raises NothingToScoreError when no query has a relevant gallery row.
    """
    queries = queries.take([row for row, label in enumerate(queries.classes) if label is not None])
    places = {label: place for place, label in enumerate(sorted({*queries.classes} | {*gallery.classes}, key=str))}
    query_labels = torch.tensor([places[label] for label in queries.classes], dtype=torch.int64)
    gallery_labels = torch.tensor([places[label] for label in gallery.classes], dtype=torch.int64)
    own = torch.from_numpy(own_rows(queries.keys, gallery.keys))
    others = torch.bincount(gallery_labels, minlength=len(places))[query_labels] - (own >= 0).long()
    if not bool((others > 0).any()):
        raise NothingToScoreError(
            f"none of the {len(queries):,} validation queries has another image of its label among the "
            f"{len(gallery):,} validation gallery images; an epoch cannot be chosen by them"
        )
    gallery_features = gather(features, gallery)
    same = queries.digests == gallery.digests
    query_features = gallery_features if same else gather(features, queries)
    domains = tuple(domain or "" for domain in queries.domains)
    return ValidationSet(query_features, gallery_features, query_labels, gallery_labels, own, domains)


def mmp5(queries: Tensor, gallery: Tensor, query_labels: Tensor, gallery_labels: Tensor, own: Tensor) -> Tensor:
    """The mMP@5 (Q,), float64, of ``queries`` (Q, E) in ``gallery`` (G, E), both of unit length, by their labels.

    ``own`` (Q,) is the gallery row that is the query itself, or -1; NaN for a query that has nothing to find.
    """
    searched = gallery.numpy()
    asking = searched if queries is gallery else queries.numpy()
    labels = query_labels.numpy(), gallery_labels.numpy()
    return torch.from_numpy(values_by_class("mmp@5", asking, searched, *labels, own.numpy()))
