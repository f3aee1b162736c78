"""Losses on pairs and proxies, and miners. Adding a loss is its configuration, its rule and its name in ``PairLosses``.

::

    embeddings (B, E) --> cosines with batch and memory, some rows at a time --miner--> pairs --rule--> scalar

PyTorch Metric Learning (extra ``pairs``) supplies what a loss makes of its pairs, where it has the loss.
"""

from typing import TypeAlias

from stages.training.pairs.contrastive import ContrastiveConfig
from stages.training.pairs.loss import PairLoss, PairLossConfig
from stages.training.pairs.margin import MarginConfig
from stages.training.pairs.miners import (
    AllConfig,
    DistanceWeightedConfig,
    EasyPositivesConfig,
    HardConfig,
    MinerConfig,
    SemiHardConfig,
)
from stages.training.pairs.multi_similarity import MultiSimilarityConfig
from stages.training.pairs.proxies import ProxyAnchorConfig, ProxyNcaConfig, SoftTripleConfig
from stages.training.pairs.range_loss import RangeConfig
from stages.training.pairs.ranks import RecallConfig, SmoothApConfig
from stages.training.pairs.supcon import SupConConfig
from stages.training.pairs.triplet import TripletConfig

PairLosses: TypeAlias = (
    ContrastiveConfig
    | MarginConfig
    | MultiSimilarityConfig
    | ProxyAnchorConfig
    | ProxyNcaConfig
    | RangeConfig
    | RecallConfig
    | SmoothApConfig
    | SoftTripleConfig
    | SupConConfig
    | TripletConfig
)

__all__ = [
    "AllConfig",
    "ContrastiveConfig",
    "DistanceWeightedConfig",
    "EasyPositivesConfig",
    "HardConfig",
    "MarginConfig",
    "MinerConfig",
    "MultiSimilarityConfig",
    "PairLoss",
    "PairLossConfig",
    "PairLosses",
    "ProxyAnchorConfig",
    "ProxyNcaConfig",
    "RangeConfig",
    "RecallConfig",
    "SemiHardConfig",
    "SmoothApConfig",
    "SoftTripleConfig",
    "SupConConfig",
    "TripletConfig",
]
