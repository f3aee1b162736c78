"""The steps before the map of a head: signed root, unit length, centering, rescaling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from stages.training.heads.kinds import InputsConfig
from stages.training.losses.angle import normalize

_BLOCK = 8192  # rows at a time, when statistics are taken


class Blocks(Sized, Iterable[Tensor], Protocol):
    """N rows that are not in memory together: each iteration gives blocks (n, D) in order."""


Rows: TypeAlias = Tensor | Blocks


class Inputs(nn.Module):
    """See :class:`InputsConfig`. ``blocks`` are the sizes of the features that stand side by side; their sum is D."""

    root: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(self, config: InputsConfig, blocks: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.blocks = tuple(blocks)
        # A closed form may choose another root than the settings have, so it is saved with the statistics.
        self.register_buffer("root", torch.tensor(config.root, dtype=torch.float64))
        self.exponent = config.root  # the same as a plain number, for export and for cards
        self.register_buffer("mean", torch.zeros(sum(blocks)))
        self.register_buffer("spread", torch.ones(()))

    @property
    def dim(self) -> int:
        return sum(self.blocks)

    def observe(self, features: Rows) -> None:
        """Compute the statistics that the steps need from the training features (N, D), of any float dtype."""
        if not self.config.center and self.config.rescale != "spread":
            return
        total = torch.stack([self._before_mean(block).double().sum(0) for block in by_blocks(features)]).sum(0)
        mean = total / len(features) if self.config.center else torch.zeros_like(total)
        self.mean = mean.float()
        if self.config.rescale == "spread":
            squares = [(self._before_mean(block).double() - mean).square().sum() for block in by_blocks(features)]
            square = torch.stack(squares).sum() / (len(features) * self.dim)
            self.spread = square.sqrt().float() if square > 0 else torch.ones(())  # all rows alike

    def forward(self, features: Tensor) -> Tensor:
        """``features`` (B, D), of any float dtype, after the steps: (B, D) float32."""
        features = self._before_mean(features)
        if self.config.center:
            features = features - self.mean
        if self.config.rescale == "spread":
            return features / self.spread
        return normalize(features) if self.config.rescale == "unit" else features

    def _load_from_state_dict(self, *state: Any) -> None:
        super()._load_from_state_dict(*state)
        self.exponent = float(self.root)

    def _before_mean(self, features: Tensor) -> Tensor:
        features = features.float()
        if self.exponent != 1:
            features = features.sign() * features.abs().pow(self.exponent)
        if self.config.unit:
            features = torch.cat([normalize(block) for block in torch.split(features, list(self.blocks), dim=1)], 1)
        return features


def by_blocks(features: Rows) -> Iterator[Tensor]:
    """The rows in blocks (n, D), in order."""
    return iter(torch.split(features, _BLOCK)) if isinstance(features, Tensor) else iter(features)


def in_blocks(function: Callable[[Tensor], Tensor], features: Rows) -> Tensor:
    """``function`` of all rows of ``features`` (N, D), a block at a time, without gradients."""
    with torch.inference_mode():
        return torch.cat([function(block) for block in by_blocks(features)])
