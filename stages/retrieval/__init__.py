"""Embeddings -> index -> scores: exact search, metrics with one definition each, intervals. Loads without torch."""

from stages.retrieval.attributes import AttributeMetric, attribute_metric_names, evaluate_attributes, evaluate_legacy
from stages.retrieval.compare import Difference, paired_difference, t_interval
from stages.retrieval.evaluate import evaluate
from stages.retrieval.gallery import choose_gallery_index, index_gallery, nearest
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
from stages.retrieval.unit import unit_length

__all__ = [
    "AttributeMetric",
    "AutoIndexConfig",
    "BinaryIndexConfig",
    "Choice",
    "DatabaseAugmentationConfig",
    "Difference",
    "Evidence",
    "FlatIndexConfig",
    "GalleryIndex",
    "HnswIndexConfig",
    "IndexConfig",
    "IvfFlatIndexConfig",
    "IvfPqIndexConfig",
    "KReciprocalConfig",
    "Metric",
    "OpqIndexConfig",
    "ProtocolConfig",
    "QueryExpansionConfig",
    "RabitqIndexConfig",
    "RefineConfig",
    "RerankConfig",
    "ScalarIndexConfig",
    "Score",
    "Scores",
    "Tried",
    "WhiteningConfig",
    "attribute_metric_names",
    "build_index",
    "choose_gallery_index",
    "choose_index",
    "evaluate",
    "evaluate_attributes",
    "evaluate_index",
    "evaluate_legacy",
    "evaluate_ranking",
    "evaluate_reranked",
    "find_metric",
    "index_gallery",
    "leave_one_out",
    "metric_names",
    "nearest",
    "paired_difference",
    "search",
    "t_interval",
    "unit_length",
]
