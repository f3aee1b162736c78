"""The shallow network: one hidden layer or two over the feature, the last of which is the embedding.

"Boosting image retrieval with accurately labelled small data": a network of the feature's own size learns to name every
attribute of an image from its hidden layer; then the classifiers are dropped, and the hidden layer is searched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from cache.errors import SettingsError
from stages.training.heads.inputs import Inputs
from stages.training.heads.kinds import InputsConfig
from stages.training.heads.network import HeadNetwork
from stages.training.multilabel.labels import AttributesConfig
from stages.training.multilabel.losses import AsymmetricConfig, ContrastiveConfig

BIAS = 0.01


@dataclass(frozen=True)
class MultilabelHeadConfig:
    """ReLU layers that learn attributes, words, or both; the embedding is the last layer, brought to unit length.

    Weights are Kaiming uniform, biases 0.01. A missing value trains nothing.

    >>> network = MultilabelHeadConfig(dim=3).build([8], torch.Generator().manual_seed(0))
    >>> network.transform(torch.ones(2, 8)).shape
    torch.Size([2, 3])

    Args:
        dim: E, the size of the hidden layer; 0 is the size of the feature, D.
        layers: ``single``, or ``double`` with a layer of D before it.
        task: ``attributes``, a classifier for each; ``tags``, the words of the record's tags; or ``both``.
        tags: ``gru`` generates the words in their order, ``bag`` predicts which there are, whatever their order.
        task_weights: ``equal`` adds the losses of the tasks up; ``learned`` weighs each by a noise that is learned
            (Kendall, Gal and Cipolla, CVPR 2018).
        instance_weight: the factor of the head's own loss, on labels, where it has one.
        balanced: beta of class-balanced losses (Cui et al., CVPR 2019), in [0, 1): a value of n records weighs
            (1 - beta) / (1 - beta^n). 0 weighs all records the same.
        asymmetric: of what has several values, and of bags of words, in place of the binary cross entropy.
        contrastive: pulls records together by the share of attributes that they have in common.
        attributes: which, and what becomes of those that cannot be learned.
        refit: once held-out images have chosen the epoch, train a network on all images up to it; else the one that
            did not learn them remains, in half of the time.
        inputs: the steps before the network; by default none, as in the paper.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["multilabel"] = "multilabel"
    dim: int = 0
    layers: Literal["single", "double"] = "single"
    task: Literal["attributes", "tags", "both"] = "attributes"
    tags: Literal["gru", "bag"] = "gru"
    task_weights: Literal["equal", "learned"] = "equal"
    instance_weight: float = 1.0
    balanced: float = 0.0
    asymmetric: AsymmetricConfig | None = None
    contrastive: ContrastiveConfig | None = None
    attributes: AttributesConfig = AttributesConfig()
    refit: bool = True
    inputs: InputsConfig = InputsConfig(center=False, rescale="none")

    def __post_init__(self) -> None:
        if self.dim < 0:
            raise SettingsError(f"dim is the size of the hidden layer, 0 for that of the feature, got {self.dim}")
        if not 0 <= self.balanced < 1:
            raise SettingsError(f"balanced is beta, in [0, 1), got {self.balanced}")
        if not 0 < self.instance_weight < math.inf:
            raise SettingsError(f"instance_weight is a factor above 0, got {self.instance_weight}")

    @property
    def learns_attributes(self) -> bool:
        """Whether the values of attributes are needed."""
        return self.task != "tags" or self.contrastive is not None

    def build(self, blocks: Sequence[int], generator: torch.Generator) -> MultilabelNetwork:
        """The untrained network of features of the sizes ``blocks`` side by side."""
        inputs = Inputs(self.inputs, blocks)
        sizes = [inputs.dim, *([inputs.dim] if self.layers == "double" else []), self.dim or inputs.dim]
        maps = [kaiming_map(after, before, generator) for before, after in pairwise(sizes)]
        return MultilabelNetwork(inputs, maps)


class MultilabelNetwork(HeadNetwork):
    """``weights`` and ``biases`` of each layer, on what ``inputs`` makes of a feature."""

    def __init__(self, inputs: Inputs, maps: Sequence[tuple[Tensor, Tensor]]) -> None:
        super().__init__(inputs)
        self.weights = nn.ParameterList([nn.Parameter(weight) for weight, _ in maps])
        self.biases = nn.ParameterList([nn.Parameter(bias) for _, bias in maps])

    @property
    def dim(self) -> int:
        """E."""
        return len(self.biases[-1])

    def transform(self, prepared: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        """See :meth:`HeadNetwork.transform`."""
        del dropout
        hidden = prepared
        for weight, bias in zip(self.weights, self.biases, strict=True):
            hidden = torch.relu(nn.functional.linear(hidden, weight, bias))
        return hidden


def kaiming_map(outputs: int, inputs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A weight (``outputs``, ``inputs``), uniform within sqrt(6 / ``inputs``), and a bias (``outputs``,) of 0.01."""
    weight = torch.empty(outputs, inputs)
    nn.init.kaiming_uniform_(weight, generator=generator)
    return weight, torch.full((outputs,), BIAS)
