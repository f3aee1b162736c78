"""Stage 2: features -> head -> embeddings. No image is opened and no backbone is run.

Settings, identities and saved heads load without torch; ``train_head`` imports it. Losses on pairs and proxies are in
:mod:`stages.training.pairs`.
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
from stages.training.config import OptimizerConfig, TrainingConfig
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
    NormFaceConfig,
    SphereFaceConfig,
)
from stages.training.losses.settings import MarginByClassSize, Ramp, SampledConfig
from stages.training.multilabel.kinds import (
    AsymmetricConfig,
    AttributeContrastConfig,
    AttributesConfig,
    MultilabelHeadConfig,
    PosteriorHeadConfig,
)
from stages.training.recipe import HeadConfig, HeadRecipe, LossConfig
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
    "CosFaceConfig",
    "CurricularFaceConfig",
    "DiscriminantHeadConfig",
    "DomainWeightsConfig",
    "ElasticArcFaceConfig",
    "ElasticCosFaceConfig",
    "EpochLog",
    "FusedFeatures",
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
    "MlpHeadConfig",
    "MultilabelHeadConfig",
    "NormFaceConfig",
    "OneDomainConfig",
    "OptimizerConfig",
    "PcaHeadConfig",
    "PosteriorHeadConfig",
    "Ramp",
    "RidgeHeadConfig",
    "SampledConfig",
    "SamplingConfig",
    "ShuffledConfig",
    "SphereFaceConfig",
    "SweepConfig",
    "TextHeadConfig",
    "TrainingConfig",
    "TrainingSummary",
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
