"""Margin losses on one shared kernel: their settings. What computes a loss is loaded when it is built."""

from stages.training.losses.kinds import (
    AdaCosConfig,
    AdaFaceConfig,
    ArcFaceConfig,
    CosFaceConfig,
    CurricularFaceConfig,
    ElasticArcFaceConfig,
    ElasticCosFaceConfig,
    LiArcFaceConfig,
    MagFaceConfig,
    MarginLosses,
    NormFaceConfig,
    SphereFaceConfig,
)
from stages.training.losses.settings import MarginByClassSize, Ramp, SampledConfig

__all__ = [
    "AdaCosConfig",
    "AdaFaceConfig",
    "ArcFaceConfig",
    "CosFaceConfig",
    "CurricularFaceConfig",
    "ElasticArcFaceConfig",
    "ElasticCosFaceConfig",
    "LiArcFaceConfig",
    "MagFaceConfig",
    "MarginByClassSize",
    "MarginLosses",
    "NormFaceConfig",
    "Ramp",
    "SampledConfig",
    "SphereFaceConfig",
]
