"""Heads that are trained, one kind a file, and the steps before their maps. Adding one is its file and its name in
``HeadConfig`` (:mod:`stages.training.head`), where the closed forms stand beside them.
"""  # noqa: D205  # one sentence

from stages.training.heads.batchnorm import BatchNormHeadConfig
from stages.training.heads.inputs import InputsConfig
from stages.training.heads.linear import LinearHeadConfig
from stages.training.heads.mlp import MlpHeadConfig

__all__ = ["BatchNormHeadConfig", "InputsConfig", "LinearHeadConfig", "MlpHeadConfig"]
