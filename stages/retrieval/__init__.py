"""Embeddings -> index -> scores: exact search, metrics with one definition each, intervals. Loads without torch."""

from stages.retrieval.attributes import AttributeMetric, attribute_metric_names, evaluate_attributes, evaluate_legacy
from stages.retrieval.bounds import Bounds, metric_bounds, score_bounds
from stages.retrieval.changes import Change, Changes, Moved, changes
from stages.retrieval.class_size import GroupScore, by_class_size
from stages.retrieval.compare import Difference, paired_difference, t_interval
from stages.retrieval.evaluate import evaluate
from stages.retrieval.gallery import index_gallery, nearest
from stages.retrieval.gallery_size import SizeCurve, SizedScore, gallery_curve
from stages.retrieval.index import FlatIndexConfig, GalleryIndex, IndexConfig, build_index, unit_length
from stages.retrieval.leave_one_out import leave_one_out
from stages.retrieval.metrics import Metric, find_metric, metric_names
from stages.retrieval.protocols import ProtocolConfig
from stages.retrieval.ranking import evaluate_ranking
from stages.retrieval.scores import Score, Scores
from stages.retrieval.search import search
from stages.retrieval.searches import Searches

__all__ = [
    "AttributeMetric",
    "Bounds",
    "Change",
    "Changes",
    "Difference",
    "FlatIndexConfig",
    "GalleryIndex",
    "GroupScore",
    "IndexConfig",
    "Metric",
    "Moved",
    "ProtocolConfig",
    "Score",
    "Scores",
    "Searches",
    "SizeCurve",
    "SizedScore",
    "attribute_metric_names",
    "build_index",
    "by_class_size",
    "changes",
    "evaluate",
    "evaluate_attributes",
    "evaluate_legacy",
    "evaluate_ranking",
    "find_metric",
    "gallery_curve",
    "index_gallery",
    "leave_one_out",
    "metric_bounds",
    "metric_names",
    "nearest",
    "paired_difference",
    "score_bounds",
    "search",
    "t_interval",
    "unit_length",
]
