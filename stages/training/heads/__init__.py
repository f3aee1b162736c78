"""Heads: what is trained, one kind a file. Adding one is its file and its name in ``HeadConfig``."""

from stages.training.heads.batchnorm import BatchNormHeadConfig
from stages.training.heads.head import EpochLog, Head, HeadConfig, TrainingSummary
from stages.training.heads.inputs import InputsConfig
from stages.training.heads.linear import LinearHeadConfig
from stages.training.heads.mlp import MlpHeadConfig

__all__ = [
    "BatchNormHeadConfig",
    "EpochLog",
    "Head",
    "HeadConfig",
    "InputsConfig",
    "LinearHeadConfig",
    "MlpHeadConfig",
    "TrainingSummary",
]
