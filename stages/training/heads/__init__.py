"""Trained heads, one kind a file, and the steps before their maps.

A new kind is a file here and a name in ``HeadConfig`` (:mod:`stages.training.head`).
"""

from stages.training.heads.batchnorm import BatchNormHeadConfig
from stages.training.heads.inputs import InputsConfig
from stages.training.heads.linear import LinearHeadConfig
from stages.training.heads.mlp import MlpHeadConfig

__all__ = ["BatchNormHeadConfig", "InputsConfig", "LinearHeadConfig", "MlpHeadConfig"]
