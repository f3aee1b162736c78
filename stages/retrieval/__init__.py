"""Embeddings -> index -> scores: exact search, metrics with one definition each, intervals. Loads without torch."""

from stages.retrieval.attributes import AttributeMetric, attribute_metric_names, evaluate_attributes, evaluate_legacy
from stages.retrieval.bounds import Bounds, metric_bounds, score_bounds
from stages.retrieval.changes import Change, Changes, Moved, changes
from stages.retrieval.class_size import GroupScore, by_class_size
from stages.retrieval.compare import Difference, paired_difference, t_interval
from stages.retrieval.evaluate import evaluate
from stages.retrieval.gallery import choose_gallery_index, index_gallery, nearest
from stages.retrieval.gallery_size import SizeCurve, SizedScore, gallery_curve
from stages.retrieval.graded_bounds import attribute_bounds
from stages.retrieval.health import Hubs, Spread, Suspect, Vote, hubs, spread, suspects, votes
from stages.retrieval.indexes import (
    AutoIndexConfig,
    BinaryIndexConfig,
    Choice,
    Evidence,
    FlatIndexConfig,
    GalleryIndex,
    HnswIndexConfig,
    IndexConfig,
    IvfFlatIndexConfig,
    IvfPqIndexConfig,
    OpqIndexConfig,
    RabitqIndexConfig,
    RefineConfig,
    ScalarIndexConfig,
    Tried,
    build_index,
    choose_index,
)
from stages.retrieval.leave_one_out import leave_one_out
from stages.retrieval.metrics import Metric, find_metric, metric_names
from stages.retrieval.open_set import Comparisons, Decisions, Rate, Rates, comparisons, decide, threshold_at
from stages.retrieval.other_rankings import evaluate_index, evaluate_reranked
from stages.retrieval.protocols import ProtocolConfig
from stages.retrieval.ranking import evaluate_ranking
from stages.retrieval.rerank import (
    DatabaseAugmentationConfig,
    KReciprocalConfig,
    QueryExpansionConfig,
    RerankConfig,
    WhiteningConfig,
)
from stages.retrieval.scores import Score, Scores
from stages.retrieval.search import search
from stages.retrieval.searches import Searches
from stages.retrieval.unit import unit_length

__all__ = [
    "AttributeMetric",
    "AutoIndexConfig",
    "BinaryIndexConfig",
    "Bounds",
    "Change",
    "Changes",
    "Choice",
    "Comparisons",
    "DatabaseAugmentationConfig",
    "Decisions",
    "Difference",
    "Evidence",
    "FlatIndexConfig",
    "GalleryIndex",
    "GroupScore",
    "HnswIndexConfig",
    "Hubs",
    "IndexConfig",
    "IvfFlatIndexConfig",
    "IvfPqIndexConfig",
    "KReciprocalConfig",
    "Metric",
    "Moved",
    "OpqIndexConfig",
    "ProtocolConfig",
    "QueryExpansionConfig",
    "RabitqIndexConfig",
    "Rate",
    "Rates",
    "RefineConfig",
    "RerankConfig",
    "ScalarIndexConfig",
    "Score",
    "Scores",
    "Searches",
    "SizeCurve",
    "SizedScore",
    "Spread",
    "Suspect",
    "Tried",
    "Vote",
    "WhiteningConfig",
    "attribute_bounds",
    "attribute_metric_names",
    "build_index",
    "by_class_size",
    "changes",
    "choose_gallery_index",
    "choose_index",
    "comparisons",
    "decide",
    "evaluate",
    "evaluate_attributes",
    "evaluate_index",
    "evaluate_legacy",
    "evaluate_ranking",
    "evaluate_reranked",
    "find_metric",
    "gallery_curve",
    "hubs",
    "index_gallery",
    "leave_one_out",
    "metric_bounds",
    "metric_names",
    "nearest",
    "paired_difference",
    "score_bounds",
    "search",
    "spread",
    "suspects",
    "t_interval",
    "threshold_at",
    "unit_length",
    "votes",
]
