"""Stage 2: features -> head -> embeddings. No image is opened and no backbone is run.

Settings, identities and saved heads load without torch; ``train_head`` imports it.
"""

from typing import TYPE_CHECKING, Any

from stages.training.closed_form.kinds import ClosedFormConfig
from stages.training.config import OptimizerConfig, TrainingConfig
from stages.training.embed import embed
from stages.training.head import EpochLog, Head, TrainingSummary
from stages.training.heads import BatchNormHeadConfig, InputsConfig, LinearHeadConfig, MlpHeadConfig
from stages.training.losses import (
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
from stages.training.multilabel import AttributesConfig, MultilabelHeadConfig, PosteriorHeadConfig
from stages.training.recipe import HeadConfig, HeadRecipe, LossConfig
from stages.training.rows.fusion import FusedFeatures
from stages.training.rows.sampling import SamplingConfig
from stages.training.sweep.search_space import SweepConfig
from stages.training.tensorboard import epoch_events
from stages.training.training_inputs import head_identity

if TYPE_CHECKING:
    from stages.training.train import train_head

__all__ = [
    "AdaCosConfig",
    "AdaFaceConfig",
    "ArcFaceConfig",
    "AttributesConfig",
    "BatchNormHeadConfig",
    "ClosedFormConfig",
    "CosFaceConfig",
    "CurricularFaceConfig",
    "ElasticArcFaceConfig",
    "ElasticCosFaceConfig",
    "EpochLog",
    "FusedFeatures",
    "Head",
    "HeadConfig",
    "HeadRecipe",
    "InputsConfig",
    "LiArcFaceConfig",
    "LinearHeadConfig",
    "LossConfig",
    "MagFaceConfig",
    "MarginByClassSize",
    "MlpHeadConfig",
    "MultilabelHeadConfig",
    "NormFaceConfig",
    "OptimizerConfig",
    "PosteriorHeadConfig",
    "Ramp",
    "SampledConfig",
    "SamplingConfig",
    "SphereFaceConfig",
    "SweepConfig",
    "TrainingConfig",
    "TrainingSummary",
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
