"""Heads: what is trained, one kind a file. Adding one is its file and its name in ``HeadConfig``."""

from stages.training.heads.head import EpochLog, Head, HeadConfig, TrainingSummary
from stages.training.heads.inputs import InputsConfig
from stages.training.heads.linear import LinearHeadConfig

__all__ = ["EpochLog", "Head", "HeadConfig", "InputsConfig", "LinearHeadConfig", "TrainingSummary"]
