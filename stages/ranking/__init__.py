"""Nearest neighbours, metrics, ties and unit length: the arithmetic of ranking. Loads without torch."""

from stages.ranking.metrics import Metric, find_metric, metric_names
from stages.ranking.nearest import search
from stages.ranking.normalize import unit_length

__all__ = [
    "Metric",
    "find_metric",
    "metric_names",
    "search",
    "unit_length",
]
