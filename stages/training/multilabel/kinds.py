"""The heads that learn attributes, a class of settings for each. Loads without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from cache.errors import SettingsError
from cache.settings import Choices, Settings, Within
from stages.training.heads.kinds import InputsConfig

if TYPE_CHECKING:
    import torch

    from stages.training.multilabel.posterior import PosteriorNetwork
    from stages.training.multilabel.tasks import MultilabelNetwork

_Exponent: TypeAlias = Annotated[float, Within("[0, inf)", "an exponent")]
_Positive: TypeAlias = Annotated[float, Within("(0, inf)")]


@dataclass(frozen=True)
class AttributesConfig(Settings):
    """Which attributes are learned, and what becomes of one that cannot be.

    Args:
        names: of the attributes; by default all that the dataset names.
        several: those with several values in a cell, a JSON list or with ``|`` between them: each value is there or
            not (a sigmoid), where the others have one value of all (a softmax).
        minimum_count: in how many training records a value must be seen; 1 allows for values seen once.
        unusable: an attribute of one value, or with values seen too seldom, is an error (``refuse``), and so are
            records without any attribute; ``leave_out`` trains without that attribute, and lets such records train
            what else they can.
    """

    names: tuple[str, ...] = ()
    several: tuple[str, ...] = ()
    minimum_count: Annotated[int, Within("[1, inf]", "a number of records")] = 2
    unusable: Literal["refuse", "leave_out"] = "refuse"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.names and (outside := [name for name in self.several if name not in self.names]):
            raise SettingsError(f"several names {outside[0]!r}, which is not among names ({', '.join(self.names)})")


@dataclass(frozen=True)
class AsymmetricConfig(Settings):
    """The asymmetric loss of values that are there or not (Ridnik et al., ICCV 2021); all 0 is the cross entropy.

    With p the probability of a value: (1 - p)^positive log p where it is there, and q^negative log(1 - q) where it is
    not, with q = max(p - clip, 0): values rightly predicted absent have no loss.

    Args:
        negative: the exponent of p, the probability of a value, in the loss of values that are not there.
        positive: the exponent of 1 - p in the loss of values that are there.
        clip: what p is lowered by for values that are not there, in [0, 1): below it they lose nothing.
    """

    negative: _Exponent = 4.0
    positive: _Exponent = 1.0
    clip: Annotated[float, Within("[0, 1)", "a probability")] = 0.05


@dataclass(frozen=True)
class AttributeContrastConfig(Settings):
    """Supervised contrast by the overlap of labels (MultiSupCon).

    Of a record i, each other record j of the batch is a positive of the weight s_ij = overlap^power, the overlap being
    the share of i's attributes that j has too: the mean by these weights of -log softmax(z_i z_j / temperature).

    Args:
        weight: the factor of this loss.
        temperature: of the softmax over the other records of the batch, in units of the cosine.
        power: of the overlap; above 1, records that share a little are hardly positives.
    """

    weight: _Positive = 1.0
    temperature: _Positive = 0.1
    power: _Positive = 4.0


@dataclass(frozen=True)
class MultilabelHeadConfig(Settings):
    """ReLU layers that learn attributes, words, or both; the embedding is the last layer, brought to unit length.

    Weights are Kaiming uniform, biases 0.01. A missing value trains nothing.

    >>> import torch
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

    kind: Literal["multilabel"] = "multilabel"
    dim: Annotated[int, Within("[0, inf]", "the size of the hidden layer, 0 for that of the feature")] = 0
    layers: Literal["single", "double"] = "single"
    task: Literal["attributes", "tags", "both"] = "attributes"
    tags: Literal["gru", "bag"] = "gru"
    task_weights: Literal["equal", "learned"] = "equal"
    instance_weight: Annotated[float, Within("(0, inf)", "a factor")] = 1.0
    balanced: Annotated[float, Within("[0, 1)", "beta")] = 0.0
    asymmetric: AsymmetricConfig | None = None
    contrastive: AttributeContrastConfig | None = None
    attributes: AttributesConfig = AttributesConfig()
    refit: bool = True
    inputs: InputsConfig = InputsConfig(center=False, rescale="none")

    def build(self, blocks: Sequence[int], generator: torch.Generator) -> MultilabelNetwork:
        from stages.training.heads.networks import Inputs
        from stages.training.multilabel.tasks import MultilabelNetwork, kaiming_map

        inputs = Inputs(self.inputs, blocks)
        sizes = [inputs.dim, *([inputs.dim] if self.layers == "double" else []), self.dim or inputs.dim]
        maps = [kaiming_map(after, before, generator) for before, after in pairwise(sizes)]
        return MultilabelNetwork(inputs, maps)


@dataclass(frozen=True)
class PosteriorHeadConfig(Settings):
    """Ridge regressions onto the values of each attribute; see :mod:`stages.training.multilabel.posterior`.

    Of ``roots``, ``penalties``, ``temperatures`` and ``rest``, the values to choose from; of one value nothing is
    chosen. A point is judged on the training rows, which search each other by what is predicted of each without it:
    the mean average precision with the label as truth.

    Args:
        dim: E. Posteriors take as many dimensions as the attributes have values; the others are principal axes of the
            feature. Where they have more, the posteriors' own leading axes are kept. 0 keeps them as they are.
        weights: of attributes in the similarity, 1 where none is given; 0 leaves one out.
        rest: weights of the principal axes, as of one attribute.
        judged: ``images`` predicts each training row by all the others; ``classes``, by those of other labels, for
            queries whose labels, or combinations of attributes, were never seen.
        kernel: ``linear``, or ``rbf``: a regression on the likeness to training rows.
        width: of ``rbf``, in units of the distance of features of unit length.
        landmarks: of ``rbf``, how many training rows, at most.
        roots: exponents of the signed root, in place of ``inputs.root``.
        penalties: of the regression, for rows of unit length.
        temperatures: predictions, of which 1 means there, are divided by it before the softmax.
        attributes: which, and what becomes of those that cannot be learned.
        inputs: the steps before the regression; rows of unit length.
    """

    kind: Literal["posterior"] = "posterior"
    dim: Annotated[int, Within("[0, inf]", "the size of an embedding, 0 for that of the posteriors")] = 64
    weights: Mapping[str, float] = field(default_factory=dict)
    rest: Annotated[tuple[float, ...], Choices("[0, inf)")] = (0.1,)
    judged: Literal["images", "classes"] = "images"
    kernel: Literal["linear", "rbf"] = "rbf"
    width: Annotated[float, Within("(0, inf)", "a distance")] = 1.0
    landmarks: Annotated[int, Within("[1, inf]", "a number of rows")] = 2048
    roots: Annotated[tuple[float, ...], Choices("(0, 1]")] = (1.0, 0.5)
    penalties: Annotated[tuple[float, ...], Choices("(0, inf)")] = (0.03, 0.1, 0.3, 1.0)
    temperatures: Annotated[tuple[float, ...], Choices("(0, inf)")] = (0.1, 0.15, 0.2)
    attributes: AttributesConfig = AttributesConfig()
    inputs: InputsConfig = InputsConfig(unit=True, center=True, rescale="unit")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inputs.root != 1:
            raise SettingsError(f"a posterior chooses among roots; set roots = [{self.inputs.root}], not inputs.root")
        if self.inputs.rescale != "unit":
            raise SettingsError(
                f"a posterior takes rows of unit length: inputs.rescale = 'unit', got {self.inputs.rescale!r}"
            )
        for name, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise SettingsError(f"weights.{name} is a weight of at least 0, got {weight}")

    def build(self, blocks: Sequence[int], _generator: torch.Generator) -> PosteriorNetwork:
        from stages.training.heads.networks import Inputs
        from stages.training.multilabel.posterior import PosteriorNetwork

        return PosteriorNetwork(Inputs(self.inputs, blocks), self.width)
