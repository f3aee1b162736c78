"""Closed forms: linear heads computed from one pass of sums over the features, one method a file."""

from typing import TypeAlias

from stages.training.closed_form.average_pool import AveragePoolHeadConfig
from stages.training.closed_form.discriminant import DiscriminantHeadConfig
from stages.training.closed_form.lda import LdaHeadConfig
from stages.training.closed_form.learned_whitening import LearnedWhiteningHeadConfig
from stages.training.closed_form.pca import PcaHeadConfig
from stages.training.closed_form.ridge import RidgeHeadConfig
from stages.training.closed_form.whitening import WhiteningHeadConfig
from stages.training.closed_form.within import WithinHeadConfig

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
