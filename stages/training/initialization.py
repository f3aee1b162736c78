"""Where training starts: weights drawn by lot, or a closed form with the class means for prototypes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stages.training.closed_form import ClosedFormConfig
from stages.training.closed_form.linear_map import LinearMapConfig
from stages.training.config import TrainingConfig
from stages.training.head import HeadConfig
from stages.training.heads.inputs import InputsConfig, Rows, by_blocks
from stages.training.heads.linear import LinearHead, LinearHeadConfig
from stages.training.heads.mlp import MlpHeadConfig
from stages.training.heads.network import HeadNetwork
from stages.training.loss import LossConfig
from stages.training.multilabel import MultilabelHeadConfig, PosteriorHeadConfig
from stages.training.pairs import PairLossConfig


def check_start(
    head: HeadConfig, loss: LossConfig | None, start: ClosedFormConfig | None, training: TrainingConfig
) -> ClosedFormConfig | None:
    """The closed form that training starts at, or that is the head; ValueError where the settings do not go together.

    A head that is itself a closed form is its own start.
    """
    if isinstance(head, (MultilabelHeadConfig, PosteriorHeadConfig)):
        _check_attribute_head(head, loss, start, training)
        return None
    if isinstance(head, LinearMapConfig):
        if start is not None:
            raise ValueError(f"{head.kind} is a closed form and its own start: leave start out, or take kind = linear")
        start = head
    elif start is not None:
        if not isinstance(head, LinearHeadConfig) and not (isinstance(head, MlpHeadConfig) and head.residual):
            raise ValueError(
                f"a closed form is a linear map: start is for linear and residual mlp, not for {head.kind}"
            )
        if start.dim != head.dim:
            raise ValueError(f"start.dim is {start.dim} and dim is {head.dim}: a start has the size of what it starts")
        if head.inputs != InputsConfig():
            raise ValueError("the steps before the map are those of the start: set start.inputs, and leave inputs out")
    if loss is None and start is None:
        raise ValueError(f"a {head.kind} head is trained: it needs a loss, or a start that is a closed form")
    if training.anchor and (loss is None or start is None):
        raise ValueError("anchor goes from a start to what a loss trained: it needs a loss, and a start")
    return start


def _check_attribute_head(
    head: MultilabelHeadConfig | PosteriorHeadConfig,
    loss: LossConfig | None,
    start: ClosedFormConfig | None,
    training: TrainingConfig,
) -> None:
    """ValueError where a head that learns attributes is given what it has no use for."""
    if start is not None or training.anchor:
        raise ValueError(f"a closed form is a linear map: start and anchor are for linear heads, not for {head.kind}")
    if loss is not None and isinstance(head, PosteriorHeadConfig):
        raise ValueError("a posterior head is a closed form and learns attributes: leave loss out")
    if isinstance(loss, PairLossConfig):
        raise ValueError(
            f"beside attributes stands a margin loss, not one on pairs: leave loss.kind = {loss.kind!r} out"
        )
    if training.experts:
        raise ValueError(f"experts are for heads that learn labels alone, not for {head.kind}: leave experts out")
    if getattr(loss, "sampled", None) is not None:
        raise ValueError("a loss beside attributes compares with all classes: leave loss.sampled out")


def start_network(
    head: HeadConfig,
    fitted: LinearHead | None,
    features: Rows,
    blocks: Sequence[int],
    generator: torch.Generator,
) -> HeadNetwork:
    """The network of ``head`` before its first step: ``fitted`` (a closed form) in its shape, or drawn.

    A closed form is scaled by a power of two, which changes no embedding by a bit, to weights of about the size that
    drawn ones have: a learning rate means the same for both.
    """
    if fitted is None:
        network = head.build(blocks, generator)
        network.observe(features)
        return network
    factor = _power_of_two(fitted.weight, 1 / math.sqrt(3 * fitted.inputs.dim))
    weight, bias = fitted.weight.detach() * factor, fitted.bias.detach() * factor
    if isinstance(head, LinearHeadConfig):
        return LinearHead(fitted.inputs, weight, bias, head.dropout, head.dropouts)
    if isinstance(head, MlpHeadConfig):
        network = head.build(blocks, generator)
        network.inputs = fitted.inputs
        network.weight, network.bias = nn.Parameter(weight), nn.Parameter(bias)
        return network
    return LinearHead(fitted.inputs, weight, bias, dropouts=fitted.dropouts)


def start_prototypes(prototypes: Tensor, network: HeadNetwork, features: Rows, labels: Tensor) -> None:
    """Set ``prototypes`` (k, C, E), a view of what is trained, to means of embeddings of its classes.

    ``labels`` (N,) are those of the training rows. The rows of a class go to its k subcenters by turns; one without a
    row gets the mean of the class. They are scaled to about the size that drawn ones have. Where embeddings cancel,
    the prototype stays as it was drawn.
    """
    subcenters, classes, dim = prototypes.shape
    turn = _occurrence(labels) % subcenters
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
    """What brings the root mean square of ``weight`` nearest to ``size``."""
    root = float(weight.detach().square().mean().sqrt())
    return 2.0 ** round(math.log2(size / root)) if root > 0 else 1.0


def _occurrence(labels: Tensor) -> Tensor:
    """How many equal labels stand before each of ``labels`` (N,)."""
    order = torch.argsort(labels, stable=True)
    sizes = torch.bincount(labels)
    place = torch.arange(len(labels)) - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    return torch.empty_like(place).scatter_(0, order, place)
