"""Where training starts: random weights, or a closed form with the class means as prototypes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stages.training.heads.kinds import LinearHeadConfig, MlpHeadConfig
from stages.training.heads.networks import HeadNetwork, LinearHead, Rows, by_blocks
from stages.training.recipe import HeadConfig
from stages.training.rows.sampling import occurrence


def start_network(
    head: HeadConfig,
    fitted: LinearHead | None,
    features: Rows,
    blocks: Sequence[int],
    generator: torch.Generator,
) -> HeadNetwork:
    """The network of ``head`` before its first step: the closed form ``fitted``, or random weights.

    A closed form is scaled by a power of two, which changes no bit of an embedding, to weights of about the size of
    random ones, so that a learning rate means the same for both.
    """
    if fitted is None:
        network = head.build(blocks, generator)
        network.observe(features)
        return network
    factor = _power_of_two(fitted.weight, 1 / math.sqrt(3 * fitted.inputs.dim))
    weight, bias = fitted.weight.detach() * factor, fitted.bias.detach() * factor
    if isinstance(head, MlpHeadConfig):
        network = head.build(blocks, generator)
        network.inputs = fitted.inputs
        network.weight, network.bias = nn.Parameter(weight), nn.Parameter(bias)
        return network
    dropout = (head.dropout, head.dropouts) if isinstance(head, LinearHeadConfig) else (0.0, fitted.dropouts)
    return LinearHead(fitted.inputs, weight, bias, *dropout)


def start_prototypes(prototypes: Tensor, network: HeadNetwork, features: Rows, labels: Tensor) -> None:
    """Set ``prototypes`` (k, C, E), a view of the loss's weight, to mean embeddings of their classes.

    ``labels`` (N,) are those of the training rows. The rows of a class are assigned to its k subcenters in turn; a
    subcenter without a row gets the mean of the class. They are scaled to about the size of random prototypes. Where
    the embeddings of a class cancel, the prototype stays random.
    """
    subcenters, classes, dim = prototypes.shape
    turn = torch.from_numpy(occurrence(labels.numpy())) % subcenters
    sums = torch.zeros(subcenters * classes, dim)
    low = 0
    with torch.inference_mode():
        for block in by_blocks(features):
            rows = slice(low, low + len(block))
            sums.index_add_(0, turn[rows] * classes + labels[rows], network(block))
            low += len(block)
        lengths = torch.linalg.vector_norm(sums, dim=1, keepdim=True)
        whole = sums.view(subcenters, classes, -1).sum(0).repeat(subcenters, 1)
        means = torch.where(lengths > 0, sums, whole)
        lengths = torch.linalg.vector_norm(means, dim=1, keepdim=True)
        factor = _power_of_two(means / lengths.clamp(min=1e-12), float(prototypes.square().mean().sqrt()))
    with torch.no_grad():
        means = (means / lengths.clamp(min=1e-12) * factor).view_as(prototypes)
        prototypes.copy_(torch.where((lengths > 0).view(subcenters, classes, 1), means, prototypes))


def _power_of_two(weight: Tensor, size: float) -> float:
    """The factor 2^n that brings the root mean square of ``weight`` nearest to ``size``."""
    root = float(weight.detach().square().mean().sqrt())
    return 2.0 ** round(math.log2(size / root)) if root > 0 else 1.0
