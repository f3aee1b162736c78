"""How good the embeddings of an epoch are: mMP@5 on classes that were not trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cache import Features, digest_bytes
from cache.errors import NothingToScoreError
from stages.records import Records
from stages.training.rows.labelled_rows import gather, rows_digest

_K = 5
_QUERIES = 1024  # a block of similarities is at most (1,024, 16,384): 64 MiB
_GALLERY = 16_384


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
        members = {name: [of == name for of in self.domains] for name in sorted({*self.domains})}
        scores = {name: float(precision[torch.tensor(chosen)].nanmean()) for name, chosen in members.items()}
        return {name: score for name, score in scores.items() if score == score}  # NaN: nothing to find

    def _precisions(self, network: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.inference_mode():
            gallery = _by_blocks(network, self.gallery)
            queries = gallery if self.queries is self.gallery else _by_blocks(network, self.queries)
            return precisions(queries, gallery, self.query_labels, self.gallery_labels, self.own)


def validation_set(features: Features, queries: Records, gallery: Records) -> ValidationSet:
    """Gather what it takes to search ``queries`` in ``gallery``; both may be the same records (leave-one-out).

    Queries without a label are left out. Raises NothingToScoreError when no query has a relevant gallery row.
    """
    queries = queries.take([row for row, label in enumerate(queries.classes) if label is not None])
    places = {label: place for place, label in enumerate(sorted({*queries.classes} | {*gallery.classes}, key=str))}
    query_labels = torch.tensor([places[label] for label in queries.classes], dtype=torch.int64)
    gallery_labels = torch.tensor([places[label] for label in gallery.classes], dtype=torch.int64)
    own = own_rows(queries, gallery)
    if not len(queries) or not bool((_relevant(query_labels, gallery_labels, own) > 0).any()):
        raise NothingToScoreError(
            f"none of the {len(queries):,} validation queries has another image of its label among the "
            f"{len(gallery):,} validation gallery images; an epoch cannot be chosen by them"
        )
    gallery_features = gather(features, gallery)
    same = queries.digests == gallery.digests
    query_features = gallery_features if same else gather(features, queries)
    domains = tuple(domain or "" for domain in queries.domains)
    return ValidationSet(query_features, gallery_features, query_labels, gallery_labels, own, domains)


def own_rows(queries: Records, gallery: Records) -> Tensor:
    """The gallery row (Q,) that has each query's key, -1 where there is none."""
    rows = {key: row for row, key in enumerate(gallery.keys)}
    return torch.tensor([rows.get(key, -1) for key in queries.keys], dtype=torch.int64)


def validation_digest(queries: Records, gallery: Records) -> list[str]:
    """What a validation score follows from besides the weights: both sets of rows, and which query is which row."""
    own = own_rows(queries, gallery).tolist()
    return [rows_digest(queries), rows_digest(gallery), digest_bytes(repr(own).encode()).hex()]


def mmp5(queries: Tensor, gallery: Tensor, query_labels: Tensor, gallery_labels: Tensor, own: Tensor) -> float:
    """Mean modified precision at 5 of ``queries`` (Q, E) in ``gallery`` (G, E), both of unit length.

    Of a query with n relevant gallery rows, the share of its first min(n, 5) results that are relevant; then the mean
    over the queries that have any (Google Universal Image Embedding Challenge, 2022).

    Args:
        queries: (Q, E).
        gallery: (G, E).
        query_labels: integers (Q,).
        gallery_labels: integers (G,) on the same scale.
        own: the gallery row (Q,) that is the query itself, which is neither found nor counted, or -1.
    """
    return float(precisions(queries, gallery, query_labels, gallery_labels, own).nanmean())


def precisions(queries: Tensor, gallery: Tensor, query_labels: Tensor, gallery_labels: Tensor, own: Tensor) -> Tensor:
    """What :func:`mmp5` is the mean of: for each query (Q,), float64, NaN where it has nothing to find."""
    relevant = _relevant(query_labels, gallery_labels, own).clamp(max=_K)
    precision = torch.full((len(queries),), torch.nan, dtype=torch.float64)
    for block in torch.split(relevant.nonzero()[:, 0], _QUERIES):
        found = nearest(queries[block], gallery, own[block])
        hits = (found >= 0) & (gallery_labels[found.clamp(min=0)] == query_labels[block, None])
        counted = torch.arange(found.shape[1]) < relevant[block, None]
        precision[block] = (hits & counted).sum(1) / relevant[block].double()
    return precision


def nearest(queries: Tensor, gallery: Tensor, own: Tensor) -> Tensor:
    """The gallery rows (b, K) most similar to ``queries`` (b, E), best first, K = min(5, G); -1 where none is left."""
    similarity = torch.empty(len(queries), 0)
    rows = torch.empty(len(queries), 0, dtype=torch.int64)
    for low in range(0, len(gallery), _GALLERY):
        block = queries @ gallery[low : low + _GALLERY].T
        inside = ((own >= low) & (own < low + block.shape[1])).nonzero()[:, 0]
        block[inside, own[inside] - low] = -torch.inf
        best = block.topk(min(_K, block.shape[1]))
        similarity = torch.cat([similarity, best.values], 1)
        rows = torch.cat([rows, best.indices + low], 1)
        best = similarity.topk(min(_K, similarity.shape[1]))
        similarity, rows = best.values, rows.gather(1, best.indices)
    return torch.where(similarity > -torch.inf, rows, -1)


def _relevant(query_labels: Tensor, gallery_labels: Tensor, own: Tensor) -> Tensor:
    """How many gallery rows (Q,) share each query's label, itself left out."""
    classes = int(torch.cat([query_labels, gallery_labels]).max()) + 1
    return torch.bincount(gallery_labels, minlength=classes)[query_labels] - (own >= 0).long()


def _by_blocks(network: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    return torch.cat([network(block) for block in torch.split(features, _GALLERY)])
