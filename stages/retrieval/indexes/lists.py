"""Inverted lists: the gallery in cells around centres, of which a query visits only the nearest few."""

from __future__ import annotations

import faiss
import numpy as np

from stages.ranking.normalize import Vectors

_ROWS_A_LIST = 39  # fewer rows than this for each centre, and centres are single rows
_SAMPLE_A_LIST = 48  # rows that a centre is learned from
_ROUNDS = 8


def check_lists(lists: int, probes: int) -> None:
    """ValueError unless the numbers of lists, and of those that a query visits, can be."""
    if lists < 0:
        raise ValueError(f"lists is a number of cells, at least 0, got {lists}")
    if probes < 1 or 0 < lists < probes:
        raise ValueError(f"probes is how many lists a query visits, from 1 to all {lists or ''}, got {probes}")


def number_of_lists(lists: int, rows: int) -> int:
    """``lists``, or where that is 0 what fits a gallery of ``rows``. ValueError for more lists than rows."""
    if lists > rows:
        raise ValueError(f"an index of {lists:,} lists needs as many rows, got {rows:,}. Ask for fewer lists.")
    return lists or max(1, min(round(4 * rows**0.5), rows // _ROWS_A_LIST))


def centres(vectors: Vectors, lists: int, seed: int) -> faiss.IndexFlatIP:
    """``lists`` centres of a sample of ``vectors`` (G, E): spherical k-means."""
    how = faiss.ClusteringParameters()
    how.niter, how.seed, how.spherical = _ROUNDS, seed, True
    how.min_points_per_centroid, how.max_points_per_centroid = 1, _SAMPLE_A_LIST
    quantizer = faiss.IndexFlatIP(vectors.shape[1])
    faiss.Clustering(vectors.shape[1], lists, how).train(sample(vectors, lists * _SAMPLE_A_LIST, seed), quantizer)
    return quantizer


def sample(vectors: Vectors, rows: int, seed: int) -> Vectors:
    """At most so many ``rows`` of ``vectors`` (G, E), drawn from the ``seed``, in their order."""
    if len(vectors) <= rows:
        return vectors
    return vectors[np.sort(np.random.default_rng(seed).choice(len(vectors), rows, replace=False))]


def inverted(index: faiss.IndexIVF, quantizer: faiss.Index, probes: int) -> faiss.IndexIVF:
    """``index`` over the trained ``quantizer``, visiting ``probes`` lists."""
    assert quantizer.ntotal == index.nlist
    index.nprobe = min(probes, index.nlist)
    return index
