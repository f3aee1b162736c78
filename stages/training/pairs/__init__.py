"""Losses on pairs and proxies, and miners: their settings. What computes a loss is loaded when it is built.

::

    embeddings (B, E) --> cosines with batch and memory, some rows at a time --miner--> pairs --rule--> scalar

PyTorch Metric Learning (extra ``pairs``) supplies what a loss makes of its pairs, where it has the loss.
"""

from typing import TYPE_CHECKING, Any

from stages.training.pairs.kinds import (
    AllConfig,
    ContrastiveConfig,
    DistanceWeightedConfig,
    EasyPositivesConfig,
    HardConfig,
    MarginConfig,
    MinerConfig,
    MultiSimilarityConfig,
    PairLossConfig,
    PairLosses,
    ProxyAnchorConfig,
    ProxyNcaConfig,
    RangeConfig,
    RecallConfig,
    SemiHardConfig,
    SmoothApConfig,
    SoftTripleConfig,
    SupConConfig,
    TripletConfig,
)

if TYPE_CHECKING:
    from stages.training.pairs.loss import PairLoss

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


def __getattr__(name: str) -> Any:
    """``PairLoss``, imported when it is asked for: it needs torch."""
    if name != "PairLoss":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from stages.training.pairs.loss import PairLoss

    return PairLoss
