"""Class-sampled softmax: a step looks at some of the classes (An et al., Partial FC, ICCVW 2021 and CVPR 2022)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stages.training.losses.angle import normalize
from stages.training.losses.rule import RandomState
from stages.training.losses.settings import SampledConfig
from stages.training.losses.tiles import reciprocal

_BLOCK = 2048  # classes whose cosines are looked at together, to find the hardest


class ClassSampler(nn.Module):
    """Which classes a step looks at. The state of its random numbers is in ``state_dict``.

    A class that no row of a batch has is looked at with the probability ``rate``; of the hardest there is none, and 1.
    """

    def __init__(self, config: SampledConfig, classes: int, subcenters: int, generator: torch.Generator) -> None:
        super().__init__()
        self.config, self.classes, self.subcenters = config, classes, subcenters
        self.wanted = min(classes, max(config.least, math.ceil(config.share * classes)))
        self.draws, self.rate = 0, 1.0
        if config.kind == "random" and self.wanted < classes:
            # After n draws of C classes, a class is missing with probability (1 - 1/C)^n. So C (1 - (1 - 1/C)^n)
            # different ones are expected, which is w for n = log(1 - w/C) / log(1 - 1/C).
            self.draws = math.ceil(math.log1p(-self.wanted / classes) / math.log1p(-1 / classes))
            self.rate = -math.expm1(self.draws * math.log1p(-1 / classes))
        self.random_state = RandomState(generator)

    def forward(self, labels: Tensor, embeddings: Tensor, weight: Tensor) -> Tensor:
        """The classes (S,), ascending: every one of ``labels`` (B,), and as many as are wanted."""
        if self.wanted == self.classes:
            return torch.arange(self.classes, device=labels.device)
        if self.config.kind == "random":  # with replacement: a permutation's time would grow with the classes
            others = torch.randint(self.classes, (self.draws,), generator=self.random_state.generator, device="cpu")
        else:
            others = self._hardest(embeddings, weight)
        chosen: Tensor = torch.unique(torch.cat([labels, others.to(labels.device)]))
        return chosen

    @torch.no_grad()
    def _hardest(self, embeddings: Tensor, weight: Tensor) -> Tensor:
        vectors = normalize(embeddings.to(weight.dtype))
        nearest = weight.new_empty(self.subcenters, self.classes)
        for low in range(0, self.classes, _BLOCK):
            block = weight.view(self.subcenters, self.classes, -1)[:, low : low + _BLOCK]
            highest = (block.flatten(0, 1) @ vectors.T).amax(1).view(block.shape[:2])
            nearest[:, low : low + _BLOCK] = highest * reciprocal(torch.linalg.vector_norm(block, dim=2))
        return nearest.amax(0).topk(self.wanted).indices
