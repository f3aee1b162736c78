"""Closed forms: linear heads computed from one pass of sums over the features. Here are their settings."""

from stages.training.closed_form.kinds import (
    AveragePoolHeadConfig,
    ClosedFormConfig,
    DiscriminantHeadConfig,
    LdaHeadConfig,
    LearnedWhiteningHeadConfig,
    PcaHeadConfig,
    RidgeHeadConfig,
    WhiteningHeadConfig,
    WithinHeadConfig,
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
