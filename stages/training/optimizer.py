"""How the weights move: the optimiser, and its learning rate at every step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser and its schedule: linear warm-up, then a half cosine from ``lr`` down to ``final_lr``.

    ``warmup_epochs`` may be a fraction of an epoch. ``weight_decay`` acts on every weight, prototypes included;
    ``momentum`` is that of sgd, and the other kinds have no use for it.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 2e-3
    final_lr: float = 1e-4
    weight_decay: float = 1e-4
    warmup_epochs: float = 1.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        if self.kind not in ("adam", "adamw", "sgd"):
            raise ValueError(f"kind is one of adam, adamw and sgd, got {self.kind!r}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr is above 0 and finite, got {self.lr}")
        if not 0 <= self.final_lr <= self.lr:
            raise ValueError(f"final_lr is what lr ({self.lr}) falls to, in [0, lr], got {self.final_lr}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is at least 0 and finite, got {self.weight_decay}")
        if not 0 <= self.warmup_epochs < math.inf:
            raise ValueError(f"warmup_epochs is at least 0 and finite, got {self.warmup_epochs}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is in [0, 1), got {self.momentum}")

    def learning_rate(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        """The learning rate of ``step``, counted from 0; it is ``lr`` after the warm-up, ``final_lr`` at the last."""
        warmup = round(self.warmup_epochs * steps_per_epoch)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        left = steps_per_epoch * epochs - warmup - 1
        share = (step - warmup) / left if left > 0 else 1.0
        return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * share)) / 2

    def build(self, weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of ``weights``; its learning rate is set before every step."""
        if self.kind == "sgd":
            return torch.optim.SGD(weights, self.lr, momentum=self.momentum, weight_decay=self.weight_decay, fused=True)
        adam = torch.optim.AdamW if self.kind == "adamw" else torch.optim.Adam
        return adam(weights, self.lr, weight_decay=self.weight_decay, fused=True)
