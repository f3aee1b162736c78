"""Batch normalization without affine weights, then a linear map: the head of GUIEC's fifth place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.training.heads.inputs import Inputs, Rows, by_blocks
from stages.training.heads.linear import LinearHead

_LEAST_VARIANCE = 1e-6  # as published


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
