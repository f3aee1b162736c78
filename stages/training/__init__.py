"""Stage 2: features -> head -> embeddings. No image is opened and no backbone is run."""

from stages.training.embed import embed
from stages.training.heads import EpochLog, Head, HeadConfig, InputsConfig, LinearHeadConfig, TrainingSummary
from stages.training.losses import (
    AdaCosConfig,
    AdaFaceConfig,
    ArcFaceConfig,
    CosFaceConfig,
    CurricularFaceConfig,
    ElasticArcFaceConfig,
    ElasticCosFaceConfig,
    LiArcFaceConfig,
    LossConfig,
    MagFaceConfig,
    MarginByClassSize,
    NormFaceConfig,
    Ramp,
    SampledConfig,
    SphereFaceConfig,
)
from stages.training.optimizer import OptimizerConfig
from stages.training.train import TrainingConfig, head_identity, train_head

__all__ = [
    "AdaCosConfig",
    "AdaFaceConfig",
    "ArcFaceConfig",
    "CosFaceConfig",
    "CurricularFaceConfig",
    "ElasticArcFaceConfig",
    "ElasticCosFaceConfig",
    "EpochLog",
    "Head",
    "HeadConfig",
    "InputsConfig",
    "LiArcFaceConfig",
    "LinearHeadConfig",
    "LossConfig",
    "MagFaceConfig",
    "MarginByClassSize",
    "NormFaceConfig",
    "OptimizerConfig",
    "Ramp",
    "SampledConfig",
    "SphereFaceConfig",
    "TrainingConfig",
    "TrainingSummary",
    "embed",
    "head_identity",
    "train_head",
]
