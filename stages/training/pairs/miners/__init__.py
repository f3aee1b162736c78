"""Miners: which of the pairs a loss looks at. One a file; adding one is its file and its name in ``MinerConfig``.

A miner is its settings and ``pick``, which takes a block of cosines and the margin of the loss, and gives triplets.
"""

from typing import Annotated, TypeAlias

from pydantic import Field

from stages.training.pairs.miners.all_pairs import AllConfig
from stages.training.pairs.miners.distance_weighted import DistanceWeightedConfig
from stages.training.pairs.miners.easy_positives import EasyPositivesConfig
from stages.training.pairs.miners.hard import HardConfig
from stages.training.pairs.miners.semi_hard import SemiHardConfig

MinerConfig: TypeAlias = Annotated[
    DistanceWeightedConfig | EasyPositivesConfig | HardConfig | SemiHardConfig, Field(discriminator="kind")
]

AllOrMinedConfig: TypeAlias = Annotated[
    AllConfig | DistanceWeightedConfig | EasyPositivesConfig | HardConfig | SemiHardConfig, Field(discriminator="kind")
]

__all__ = [
    "AllConfig",
    "AllOrMinedConfig",
    "DistanceWeightedConfig",
    "EasyPositivesConfig",
    "HardConfig",
    "MinerConfig",
    "SemiHardConfig",
]
