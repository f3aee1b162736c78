"""Nearest neighbours, metrics, ties, unit length and class folds: the arithmetic of ranking. Loads without torch."""

from stages.ranking.by_class import class_folds, leave_one_out, mean_average_precision, values_by_class
from stages.ranking.metrics import Metric, at_every_k, find_metric, metric_names
from stages.ranking.nearest import search
from stages.ranking.normalize import unit_length
from stages.ranking.relevance import own_rows

__all__ = [
    "Metric", "at_every_k", "class_folds", "find_metric", "leave_one_out", "mean_average_precision", "metric_names",
    "own_rows", "search", "unit_length", "values_by_class",
]  # fmt: skip
