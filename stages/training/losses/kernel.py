"""What every margin-softmax loss shares: prototypes, cosines, and a cross entropy whose target has been moved.

::

    embeddings (B, E) --unit length--> cosines (B, C*k) --best subcenter--> (B, C) --margin on the target--> scalar

A loss is this kernel and one function that moves the cosine of the target, (B, 1) -> (B, 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Margin = Callable[[Tensor], Tensor]


def unit_length(vectors: Tensor) -> Tensor:
    """``vectors`` (n, E) divided by their lengths; a zero vector stays zero and gets a zero gradient."""
    length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors * torch.where(length > 0, length, torch.inf).reciprocal()


class MarginSoftmax(nn.Module):
    """Cosine softmax over C classes of k ``subcenters`` each, the target's cosine made smaller by ``margin``.

    The prototype of subcenter j of class c is row ``j * classes + c`` of ``weight`` (C*k, E). A class is as near as
    its nearest subcenter (Deng et al., Sub-center ArcFace, ECCV 2020); with one subcenter it is plain.
    """

    def __init__(
        self, dim: int, classes: int, margin: Margin, *, subcenters: int, scale: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.classes = classes
        self.subcenters = subcenters
        self.scale = scale
        self.margin = margin
        self.weight = nn.Parameter(torch.empty(classes * subcenters, dim))
        nn.init.xavier_uniform_(self.weight, generator=generator)

    def cosines(self, embeddings: Tensor) -> Tensor:
        """The cosine (B, C) of ``embeddings`` (B, E), of any length, with each class; float32 or finer."""
        cosine = functional.linear(unit_length(embeddings.to(self.weight.dtype)), unit_length(self.weight))
        cosine = cosine.to(torch.promote_types(cosine.dtype, torch.float32))
        if self.subcenters == 1:
            return cosine
        return cosine.view(-1, self.subcenters, self.classes).max(1).values

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of ``embeddings`` (B, E) with ``labels`` (B,) in [0, C)."""
        cosine = self.cosines(embeddings)
        target = labels[:, None]
        moved = self.margin(cosine.gather(1, target))
        logits = (self.scale * cosine).scatter_(1, target, self.scale * moved)
        return functional.cross_entropy(logits, labels)


def check_softmax(subcenters: int, scale: float) -> None:
    """Raise ValueError unless ``subcenters`` >= 1 and ``scale`` > 0."""
    if subcenters < 1:
        raise ValueError(f"subcenters is a number of prototypes a class, at least 1, got {subcenters}")
    if not 0 < scale < math.inf:
        raise ValueError(f"scale is a factor on the cosines, above 0 and finite, got {scale}")
