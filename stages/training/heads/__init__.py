"""Trained heads, one kind a file, and the steps before their maps: their settings. Networks are loaded when built."""

from stages.training.heads.kinds import BatchNormHeadConfig, InputsConfig, LinearHeadConfig, MlpHeadConfig

__all__ = ["BatchNormHeadConfig", "InputsConfig", "LinearHeadConfig", "MlpHeadConfig"]
