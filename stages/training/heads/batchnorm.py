"""Batch normalization without affine weights, then a linear map: the head of GUIEC's fifth place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from cache.errors import SettingsError
from stages.training.heads.dropout import check_shares
from stages.training.heads.inputs import Inputs, InputsConfig, Rows, by_blocks
from stages.training.heads.linear import LinearHead, check_dim, drawn_map

_LEAST_VARIANCE = 1e-5


@dataclass(frozen=True)
class BatchNormHeadConfig:
    """Batch normalization of the feature, then dropout, then a linear map to ``dim``.

    In training, mean and variance are those of the batch. Embeddings take running ones, which move by ``momentum`` in
    each step and start at those of all training rows. There is no affine part: the map has it.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["batchnorm"] = "batchnorm"
    dim: int = 64
    dropout: float = 0.0
    momentum: float = 0.1
    inputs: InputsConfig = InputsConfig(center=False, rescale="none")

    def __post_init__(self) -> None:
        check_dim(self.dim)
        check_shares([self.dropout], "dropout")
        if not 0 < self.momentum <= 1:
            raise SettingsError(f"momentum is the share of a batch in the running mean, in (0, 1], got {self.momentum}")

    def build(self, blocks: Sequence[int], generator: torch.Generator) -> BatchNormHead:
        """The untrained head for features of ``blocks`` sizes side by side, initialized from ``generator``."""
        inputs = Inputs(self.inputs, blocks)
        return BatchNormHead(inputs, *drawn_map(self.dim, inputs.dim, generator), self.dropout, self.momentum)


class BatchNormHead(LinearHead):
    """A linear head of what ``running_mean`` and ``running_variance`` (D,), float32, normalize."""

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, inputs: Inputs, weight: Tensor, bias: Tensor, dropout: float, momentum: float) -> None:
        super().__init__(inputs, weight, bias, dropout)
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(inputs.dim))
        self.register_buffer("running_variance", torch.ones(inputs.dim))

    def observe(self, features: Rows) -> None:
        """Compute the statistics of ``inputs`` and the running ones from the training features (N, D)."""
        super().observe(features)
        mean = torch.stack([self.inputs(block).double().sum(0) for block in by_blocks(features)]).sum(0) / len(features)
        squares = [(self.inputs(block).double() - mean).square().sum(0) for block in by_blocks(features)]
        self.running_mean.copy_(mean)
        self.running_variance.copy_(torch.stack(squares).sum(0) / len(features))

    def transform(self, prepared: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        """See :meth:`HeadNetwork.transform`. A batch of one row has no variance: it takes the running ones."""
        normal = nn.functional.batch_norm(
            prepared,
            self.running_mean,
            self.running_variance,
            training=dropout is not None and len(prepared) > 1,
            momentum=self.momentum,
            eps=_LEAST_VARIANCE,
        )
        return super().transform(normal, dropout)
