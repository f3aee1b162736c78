"""The trained heads and the steps before their maps, a class of settings for each. Loads without torch.

A new kind is a class here, its network in ``networks.py``, and a name in ``HeadConfig`` of ``recipe.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from cache.errors import SettingsError
from cache.settings import Settings, Within

if TYPE_CHECKING:
    import torch

    from stages.training.heads.networks import BatchNormHead, LinearHead, MlpHead

_DROPPED = Within("[0, 1)", "the share of a feature set to zero")
Dim: TypeAlias = Annotated[int, Within("[1, inf]", "the size of an embedding")]
Dropout: TypeAlias = Annotated[float, _DROPPED]


@dataclass(frozen=True)
class InputsConfig(Settings):
    """The steps, in this order.

    Args:
        root: x -> sign(x) |x|^root, in (0, 1]; 0.5 is the signed square root (Hellinger map) for features after a ReLU.
        unit: the feature to unit length; of several features side by side, each.
        center: less the mean of the training features.
        rescale: ``spread`` divides by one number, the root mean square of the training features, so that a learning
            rate means the same for every backbone; ``unit`` brings each row to unit length once more.
    """

    root: Annotated[float, Within("(0, 1]", "an exponent")] = 1.0
    unit: bool = False
    center: bool = True
    rescale: Literal["none", "spread", "unit"] = "spread"


@dataclass(frozen=True)
class LinearHeadConfig(Settings):
    """One linear map from the feature to ``dim`` dimensions, then unit length.

    Args:
        dim: E.
        dropout: in training, the share of the feature that is set to zero before the map.
        dropouts: several shares instead: the mean of the map over one dropout of each, with one product of matrices
            (Inoue, Multi-Sample Dropout, 2019).
        nested: smaller sizes, ascending: the first so many dimensions are an embedding too. The loss is the sum over
            these sizes and ``dim``, with the first dimensions of one set of prototypes (Kusupati et al., Matryoshka
            Representation Learning, NeurIPS 2022, the tied form).
        inputs: the steps before the map. UniFEx (arXiv 2409.13513) has none: center = false, rescale = "none".
    """

    kind: Literal["linear"] = "linear"
    dim: Dim = 64
    dropout: Dropout = 0.2
    dropouts: Annotated[tuple[float, ...], _DROPPED] = ()
    nested: tuple[int, ...] = ()
    inputs: InputsConfig = InputsConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.nested) != sorted({*self.nested}) or not all(0 < size < self.dim for size in self.nested):
            raise SettingsError(
                f"nested are sizes below dim ({self.dim}), at least 1 and ascending, got {list(self.nested)}"
            )

    def build(self, blocks: Sequence[int], generator: torch.Generator) -> LinearHead:
        """The untrained head for features of ``blocks`` sizes side by side, initialized from ``generator``."""
        from stages.training.heads.networks import Inputs, LinearHead, drawn_map

        inputs = Inputs(self.inputs, blocks)
        return LinearHead(inputs, *drawn_map(self.dim, inputs.dim, generator), self.dropout, self.dropouts)


@dataclass(frozen=True)
class BatchNormHeadConfig(Settings):
    """Batch normalization of the feature, then dropout, then a linear map to ``dim``.

    In training, mean and variance are those of the batch. Embeddings take running ones, which start at those of all
    training rows. There is no affine part: the map has it.

    Args:
        dim: E.
        dropout: in training, the share of the feature that is set to zero before the map.
        momentum: the share of a batch in the running mean and variance.
        inputs: the steps before the normalization.
    """

    kind: Literal["batchnorm"] = "batchnorm"
    dim: Dim = 64
    dropout: Dropout = 0.0
    momentum: Annotated[float, Within("(0, 1]", "the share of a batch in the running mean")] = 0.1
    inputs: InputsConfig = InputsConfig(center=False, rescale="none")

    def build(self, blocks: Sequence[int], generator: torch.Generator) -> BatchNormHead:
        from stages.training.heads.networks import BatchNormHead, Inputs, drawn_map

        inputs = Inputs(self.inputs, blocks)
        return BatchNormHead(inputs, *drawn_map(self.dim, inputs.dim, generator), self.dropout, self.momentum)


@dataclass(frozen=True)
class MlpHeadConfig(Settings):
    """Hidden layers of the sizes ``hidden``, each a linear map and ``activation``, then a linear map to ``dim``.

    With ``residual`` the last layer starts at zero.

    Args:
        dim: E.
        hidden: the sizes of the hidden layers.
        residual: add a linear map from the feature; the untrained head is then the linear one.
        activation: between the layers.
        dropout: in training, the share set to zero before the first, the last and the linear map.
        inputs: the steps before the first layer.
    """

    kind: Literal["mlp"] = "mlp"
    dim: Dim = 64
    hidden: tuple[int, ...] = (1024,)
    residual: bool = True
    activation: Literal["relu", "gelu"] = "gelu"
    dropout: Dropout = 0.2
    inputs: InputsConfig = InputsConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.hidden or min(self.hidden) < 1:
            raise SettingsError(f"hidden are the sizes of the hidden layers, one or more, got {list(self.hidden)}")

    def build(self, blocks: Sequence[int], generator: torch.Generator) -> MlpHead:
        from stages.training.heads.networks import Inputs, MlpHead

        return MlpHead(self, Inputs(self.inputs, blocks), generator)
