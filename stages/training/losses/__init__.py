"""Margin losses, one a file on one shared kernel. Adding one is its file and its name in ``LossConfig``."""

from typing import Annotated, TypeAlias

from pydantic import Field

from stages.training.losses.arcface import ArcFaceConfig
from stages.training.losses.cosface import CosFaceConfig

LossConfig: TypeAlias = Annotated[ArcFaceConfig | CosFaceConfig, Field(discriminator="kind")]

__all__ = ["ArcFaceConfig", "CosFaceConfig", "LossConfig"]
