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
from stages.extraction.extract import Progress, extract
from stages.extraction.preprocess import Preprocess, PreprocessConfig

__all__ = [
    "Backbone",
    "BackboneConfig",
    "BundledConfig",
    "DecodeError",
    "OpenClipConfig",
    "PcaBasis",
    "PcaConfig",
    "Preprocess",
    "PreprocessConfig",
    "Progress",
    "TimmConfig",
    "decode",
    "extract",
    "fit_pca_basis",
    "load_backbone",
    "load_backbones",
]
