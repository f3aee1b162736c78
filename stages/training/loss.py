"""Every loss that a head can be trained with: margin losses, and losses on pairs and proxies."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from stages.training.losses import MarginLosses
from stages.training.losses.kernel import MarginSoftmax
from stages.training.pairs import PairLoss, PairLosses

LossConfig: TypeAlias = Annotated[MarginLosses | PairLosses, Field(discriminator="kind")]
Loss: TypeAlias = MarginSoftmax | PairLoss
