"""Stage 2: features -> head -> embeddings. No image is opened and no backbone is run."""

from stages.training.config import TrainingConfig
from stages.training.embed import embed
from stages.training.heads import EpochLog, Head, HeadConfig, InputsConfig, LinearHeadConfig, TrainingSummary
from stages.training.losses import ArcFaceConfig, CosFaceConfig, LossConfig
from stages.training.optimizer import OptimizerConfig
from stages.training.train import head_identity, train_head

__all__ = [
    "ArcFaceConfig",
    "CosFaceConfig",
    "EpochLog",
    "Head",
    "HeadConfig",
    "InputsConfig",
    "LinearHeadConfig",
    "LossConfig",
    "OptimizerConfig",
    "TrainingConfig",
    "TrainingSummary",
    "embed",
    "head_identity",
    "train_head",
]
