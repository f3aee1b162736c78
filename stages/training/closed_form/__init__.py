"""Closed forms: linear heads computed from one pass of sums over the features."""

from typing import TypeAlias

from stages.training.closed_form.discriminant import DiscriminantHeadConfig
from stages.training.closed_form.ridge import RidgeHeadConfig
from stages.training.closed_form.unsupervised import AveragePoolHeadConfig, PcaHeadConfig, WhiteningHeadConfig
from stages.training.closed_form.within import LdaHeadConfig, LearnedWhiteningHeadConfig, WithinHeadConfig

ClosedFormConfig: TypeAlias = (
    AveragePoolHeadConfig
    | DiscriminantHeadConfig
    | LdaHeadConfig
    | LearnedWhiteningHeadConfig
    | PcaHeadConfig
    | RidgeHeadConfig
    | WhiteningHeadConfig
    | WithinHeadConfig
)

__all__ = [
    "AveragePoolHeadConfig",
    "ClosedFormConfig",
    "DiscriminantHeadConfig",
    "LdaHeadConfig",
    "LearnedWhiteningHeadConfig",
    "PcaHeadConfig",
    "RidgeHeadConfig",
    "WhiteningHeadConfig",
    "WithinHeadConfig",
]
