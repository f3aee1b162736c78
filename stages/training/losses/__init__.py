"""Margin losses, one a file on one shared kernel. Adding one is its file and its name in ``MarginLosses``."""

from typing import TypeAlias

from stages.training.losses.adacos import AdaCosConfig
from stages.training.losses.adaface import AdaFaceConfig
from stages.training.losses.arcface import ArcFaceConfig
from stages.training.losses.cosface import CosFaceConfig
from stages.training.losses.curricularface import CurricularFaceConfig
from stages.training.losses.elasticface import ElasticArcFaceConfig, ElasticCosFaceConfig
from stages.training.losses.li_arcface import LiArcFaceConfig
from stages.training.losses.magface import MagFaceConfig
from stages.training.losses.margins import MarginByClassSize
from stages.training.losses.normface import NormFaceConfig
from stages.training.losses.sampled import SampledConfig
from stages.training.losses.schedule import Ramp
from stages.training.losses.sphereface import SphereFaceConfig

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
