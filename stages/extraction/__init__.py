"""Stage 1, images -> features: a frozen backbone runs once over each image."""

from stages.extraction.backbones import (
    Backbone,
    BackboneConfig,
    BundledConfig,
    OpenClipConfig,
    PcaBasis,
    PcaConfig,
    TimmConfig,
    fit_pca_basis,
    load_backbone,
    load_backbones,
)
from stages.extraction.decode import DecodeError, decode
from stages.extraction.embedder import Embedded, Embedder
from stages.extraction.executor import Executor, LocalExecutor
from stages.extraction.extract import Filled, Progress, extract, extract_all
from stages.extraction.flow import Clock
from stages.extraction.planning import Plan, Planned, plan_extraction
from stages.extraction.precomputed import PrecomputedConfig, import_features
from stages.extraction.preprocess import Preprocess, PreprocessConfig, ViewsConfig
from stages.extraction.ray_executor import RayExecutor

__all__ = [
    "Backbone", "BackboneConfig", "BundledConfig", "Clock", "DecodeError", "Embedded", "Embedder", "Executor",
    "Filled", "LocalExecutor", "OpenClipConfig", "PcaBasis", "PcaConfig", "Plan", "Planned", "PrecomputedConfig",
    "Preprocess", "PreprocessConfig", "Progress", "RayExecutor", "TimmConfig", "ViewsConfig", "decode", "extract",
    "extract_all", "fit_pca_basis", "import_features", "load_backbone", "load_backbones", "plan_extraction",
]  # fmt: skip
