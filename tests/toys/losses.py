"""Small batches, losses and their gradients, for the tests of margin losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stages.training import (
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
    SphereFaceConfig,
)
from stages.training.losses.kernel import MarginSoftmax
from stages.training.losses.kinds import MarginSoftmaxConfig
from tests.oracles.losses import Prototypes, Vector

DIM, CLASSES, ROWS = 6, 7, 24

BY_SIZE = MarginByClassSize(smallest_class=0.6, largest_class=0.2)

# One of each, and those whose arithmetic takes another way.
FAMILY: list[MarginSoftmaxConfig] = [
    NormFaceConfig(),
    ArcFaceConfig(),
    ArcFaceConfig(margin_rad=0.0),
    ArcFaceConfig(margin_rad=3.0, subcenters=2, scale=64.0),
    ArcFaceConfig(margin_rad=BY_SIZE),
    CosFaceConfig(label_smoothing=0.1),
    CosFaceConfig(margin_cos=Ramp(0.1, 0.5), scale=Ramp(10.0, 40.0)),
    SphereFaceConfig(),
    SphereFaceConfig(margin_factor=4.0, subcenters=2),
    LiArcFaceConfig(),
    LiArcFaceConfig(margin_rad=BY_SIZE, subcenters=3),
    CurricularFaceConfig(),
    CurricularFaceConfig(subcenters=2),
    AdaFaceConfig(),
    AdaFaceConfig(concentration=2.0, statistics_rate=1.0, subcenters=2),
    MagFaceConfig(),
    MagFaceConfig(shortest_norm=0.5, longest_norm=4.0, subcenters=2),
    ElasticArcFaceConfig(deviation_rad=0.3),
    ElasticCosFaceConfig(deviation_cos=0.2, subcenters=2),
    AdaCosConfig(),
    AdaCosConfig(dynamic=False),
]


def batch(seed: int = 0, rows: int = ROWS, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(rows, DIM, generator=generator)
    return embeddings, torch.randint(classes, (rows,), generator=generator)


def build(config: MarginSoftmaxConfig, classes: int = CLASSES, seed: int = 1, dim: int = DIM) -> MarginSoftmax:
    """``config`` for classes of 2, 5, 8, ... rows."""
    return config.build(dim, torch.arange(classes) * 3 + 2, torch.Generator().manual_seed(seed))


def by_class(rows: Sequence[Vector], classes: int) -> Prototypes:
    """Prototypes [class][subcenter] of the ``rows`` of a weight."""
    return [[rows[j * classes + c] for j in range(len(rows) // classes)] for c in range(classes)]


def gradients(loss: MarginSoftmax, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, and its gradients by the embeddings and by the prototypes."""
    embeddings = embeddings.clone().requires_grad_()
    value = loss(embeddings, labels)
    on_embeddings, on_weight = torch.autograd.grad(value, [embeddings, loss.weight])
    return value.detach(), on_embeddings, on_weight


def central_differences(function: Callable[[list[list[float]]], float], at: Tensor, step: float = 1e-6) -> Tensor:
    """The gradient of ``function`` of a matrix, one number nudged after another."""
    gradient = torch.zeros_like(at)
    for i, j in torch.cartesian_prod(*(torch.arange(size) for size in at.shape)).tolist():
        ends = []
        for sign in (1, -1):
            nudged = at.clone()
            nudged[i, j] += sign * step
            ends.append(function(nudged.tolist()))
        gradient[i, j] = (ends[0] - ends[1]) / (2 * step)
    return gradient
