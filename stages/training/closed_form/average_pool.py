"""Neighbouring numbers of a feature averaged down to E: nothing is learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from stages.training.closed_form.linear_map import LinearMapConfig, TrainingRows, check_dim
from stages.training.heads.inputs import Inputs, InputsConfig


@dataclass(frozen=True)
class AveragePoolHeadConfig(LinearMapConfig):
    """Number e is the mean of the numbers floor(e D / E) to ceil((e + 1) D / E) - 1 of the feature.

    It is the neck of UniFEx (arXiv 2409.13513) before any training. Neither labels nor the order of rows matter.
    """

    inputs: InputsConfig = InputsConfig(center=False, rescale="none")
    kind: Literal["average_pool"] = "average_pool"

    def _map(self, rows: TrainingRows) -> tuple[Inputs, Tensor]:
        inputs = rows.observed(self.inputs)
        check_dim(self.dim, inputs.dim, f"features of {inputs.dim:,} numbers")
        return inputs, functional.adaptive_avg_pool1d(torch.eye(inputs.dim), self.dim).T
