"""Stage 2: features -> head -> embeddings. No image is opened and no backbone is run.

Settings, identities and saved heads load without torch; ``train_head`` imports it.
"""

from typing import TYPE_CHECKING, Any

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
from stages.training.embed import embed
from stages.training.head import EpochLog, Head, TrainingSummary
from stages.training.heads.kinds import BatchNormHeadConfig, InputsConfig, LinearHeadConfig, MlpHeadConfig
from stages.training.losses.kinds import (
    AdaCosConfig,
    AdaFaceConfig,
    ArcFaceConfig,
    CosFaceConfig,
    CurricularFaceConfig,
    ElasticArcFaceConfig,
    ElasticCosFaceConfig,
    LiArcFaceConfig,
    MagFaceConfig,
    MarginByClassSize,
    NormFaceConfig,
    Ramp,
    SampledConfig,
    SphereFaceConfig,
)
from stages.training.multilabel.kinds import (
    AsymmetricConfig,
    AttributeContrastConfig,
    AttributesConfig,
    MultilabelHeadConfig,
    PosteriorHeadConfig,
)
from stages.training.pairs.kinds import (
    AllConfig,
    ContrastiveConfig,
    DistanceWeightedConfig,
    EasyPositivesConfig,
    HardConfig,
    MarginConfig,
    MultiSimilarityConfig,
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
from stages.training.recipe import HeadConfig, HeadRecipe, LossConfig, OptimizerConfig, TrainingConfig
from stages.training.rows.fusion import FusedFeatures
from stages.training.rows.sampling import (
    BalancedConfig,
    ByLossConfig,
    ClassesByImagesConfig,
    DomainWeightsConfig,
    OneDomainConfig,
    SamplingConfig,
    ShuffledConfig,
)
from stages.training.sweep.search_space import SweepConfig
from stages.training.tensorboard import epoch_events
from stages.training.text.kinds import TextHeadConfig
from stages.training.training_inputs import head_identity

if TYPE_CHECKING:
    from stages.training.train import train_head

__all__ = [
    "AdaCosConfig",
    "AdaFaceConfig",
    "AllConfig",
    "ArcFaceConfig",
    "AsymmetricConfig",
    "AttributeContrastConfig",
    "AttributesConfig",
    "AveragePoolHeadConfig",
    "BalancedConfig",
    "BatchNormHeadConfig",
    "ByLossConfig",
    "ClassesByImagesConfig",
    "ClosedFormConfig",
    "ContrastiveConfig",
    "CosFaceConfig",
    "CurricularFaceConfig",
    "DiscriminantHeadConfig",
    "DistanceWeightedConfig",
    "DomainWeightsConfig",
    "EasyPositivesConfig",
    "ElasticArcFaceConfig",
    "ElasticCosFaceConfig",
    "EpochLog",
    "FusedFeatures",
    "HardConfig",
    "Head",
    "HeadConfig",
    "HeadRecipe",
    "InputsConfig",
    "LdaHeadConfig",
    "LearnedWhiteningHeadConfig",
    "LiArcFaceConfig",
    "LinearHeadConfig",
    "LossConfig",
    "MagFaceConfig",
    "MarginByClassSize",
    "MarginConfig",
    "MlpHeadConfig",
    "MultiSimilarityConfig",
    "MultilabelHeadConfig",
    "NormFaceConfig",
    "OneDomainConfig",
    "OptimizerConfig",
    "PcaHeadConfig",
    "PosteriorHeadConfig",
    "ProxyAnchorConfig",
    "ProxyNcaConfig",
    "Ramp",
    "RangeConfig",
    "RecallConfig",
    "RidgeHeadConfig",
    "SampledConfig",
    "SamplingConfig",
    "SemiHardConfig",
    "ShuffledConfig",
    "SmoothApConfig",
    "SoftTripleConfig",
    "SphereFaceConfig",
    "SupConConfig",
    "SweepConfig",
    "TextHeadConfig",
    "TrainingConfig",
    "TrainingSummary",
    "TripletConfig",
    "WhiteningHeadConfig",
    "WithinHeadConfig",
    "embed",
    "epoch_events",
    "head_identity",
    "train_head",
]


def __getattr__(name: str) -> Any:
    """``train_head``, imported when it is asked for."""
    if name != "train_head":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from stages.training.train import train_head

    return train_head
