"""Embeddings -> index -> scores: search, protocols, evaluation with intervals. Loads without torch."""

from stages.retrieval.attributes import AttributeMetric, attribute_metric_names, evaluate_attributes, evaluate_legacy
from stages.retrieval.evaluate import evaluate
from stages.retrieval.evaluate_ranking import evaluate_index, evaluate_ranking, evaluate_reranked
from stages.retrieval.gallery import choose_gallery_index, index_gallery, nearest
from stages.retrieval.indexes.auto import AutoIndexConfig, Choice, Evidence, IndexConfig, Tried, choose_index
from stages.retrieval.indexes.gallery_index import GalleryIndex
from stages.retrieval.indexes.kinds import (
    BinaryIndexConfig,
    FlatIndexConfig,
    HnswIndexConfig,
    IvfFlatIndexConfig,
    IvfPqIndexConfig,
    OpqIndexConfig,
    RabitqIndexConfig,
    RefineConfig,
    ScalarIndexConfig,
    build_index,
)
from stages.retrieval.indexes.milvus import MilvusIndex, MilvusIndexConfig
from stages.retrieval.protocols import (
    ByLabelConfig,
    Gldv2Config,
    IliasConfig,
    LeaveOneOutConfig,
    ListedConfig,
    MetConfig,
    Products10kConfig,
    ProtocolConfig,
    QueryGalleryConfig,
    RevisitedConfig,
    SmallDataConfig,
    UnedConfig,
)
from stages.retrieval.query_set import QuerySet
from stages.retrieval.rerank import (
    DatabaseAugmentationConfig,
    KReciprocalConfig,
    QueryExpansionConfig,
    RerankConfig,
    WhiteningConfig,
)
from stages.retrieval.scores import Score, Scores

__all__ = [
    "AttributeMetric", "AutoIndexConfig", "BinaryIndexConfig", "ByLabelConfig", "Choice", "DatabaseAugmentationConfig",
    "Evidence", "FlatIndexConfig", "GalleryIndex", "Gldv2Config", "HnswIndexConfig", "IliasConfig", "IndexConfig",
    "IvfFlatIndexConfig", "IvfPqIndexConfig", "KReciprocalConfig", "LeaveOneOutConfig", "ListedConfig", "MetConfig",
    "MilvusIndex", "MilvusIndexConfig", "OpqIndexConfig", "Products10kConfig", "ProtocolConfig", "QueryExpansionConfig",
    "QueryGalleryConfig", "QuerySet", "RabitqIndexConfig", "RefineConfig", "RerankConfig", "RevisitedConfig",
    "ScalarIndexConfig", "Score", "Scores", "SmallDataConfig", "Tried", "UnedConfig", "WhiteningConfig",
    "attribute_metric_names", "build_index", "choose_gallery_index", "choose_index", "evaluate", "evaluate_attributes",
    "evaluate_index", "evaluate_legacy", "evaluate_ranking", "evaluate_reranked", "index_gallery", "nearest",
]  # fmt: skip
