"""Margin losses on one shared kernel. Adding one is its configuration, its rule and its name in ``MarginLosses``."""

from typing import TypeAlias

from stages.training.losses.adaptive import AdaCosConfig, AdaFaceConfig, CurricularFaceConfig, MagFaceConfig
from stages.training.losses.fixed import (
    ArcFaceConfig,
    CosFaceConfig,
    ElasticArcFaceConfig,
    ElasticCosFaceConfig,
    LiArcFaceConfig,
    NormFaceConfig,
    SphereFaceConfig,
)
from stages.training.losses.margins import MarginByClassSize
from stages.training.losses.sampled import SampledConfig
from stages.training.losses.schedule import Ramp

MarginLosses: TypeAlias = (
    AdaCosConfig
    | AdaFaceConfig
    | ArcFaceConfig
    | CosFaceConfig
    | CurricularFaceConfig
    | ElasticArcFaceConfig
    | ElasticCosFaceConfig
    | LiArcFaceConfig
    | MagFaceConfig
    | NormFaceConfig
    | SphereFaceConfig
)

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
