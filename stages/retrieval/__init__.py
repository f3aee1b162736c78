"""Embeddings -> index -> scores: exact search, metrics with one definition each, intervals. Loads without torch."""

from stages.retrieval.evaluate import evaluate, index_gallery, nearest
from stages.retrieval.index import FlatIndexConfig, GalleryIndex, IndexConfig, build_index, unit_length
from stages.retrieval.metrics import Metric, find_metric, metric_names
from stages.retrieval.scores import Score, Scores
from stages.retrieval.search import search

__all__ = [
    "FlatIndexConfig",
    "GalleryIndex",
    "IndexConfig",
    "Metric",
    "Score",
    "Scores",
    "build_index",
    "evaluate",
    "find_metric",
    "index_gallery",
    "metric_names",
    "nearest",
    "search",
    "unit_length",
]
