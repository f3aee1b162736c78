"""The settings of a text head. Loads without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cache.settings import Settings, Within
from stages.training.heads.kinds import InputsConfig

if TYPE_CHECKING:
    import torch

    from stages.training.text.fit import TextNetwork


@dataclass(frozen=True)
class TextHeadConfig(Settings):
    """Two linear maps, of images and of sentences, into one space; see :mod:`stages.training.text.fit`.

    Args:
        dim: the size of an embedding; 0 for as many directions as correlate.
        columns: what the sentence of an image is made of, in this order: attributes, or ``label``. By default every
            attribute, and the label where there is none.
        folds: of the combinations, each predicted without its own, that the two ridges and the power are chosen by.
        inputs: the steps before the map of images.
    """

    kind: Literal["text"] = "text"
    dim: Annotated[int, Within("[0, inf]", "the size of an embedding, 0 for as many as correlate")] = 0
    columns: tuple[str, ...] = ()
    folds: Annotated[int, Within("[2, inf]", "into how many parts combinations are divided")] = 4
    inputs: InputsConfig = InputsConfig(unit=True, center=False, rescale="none")

    def build(self, blocks: Sequence[int], _generator: torch.Generator) -> TextNetwork:
        from stages.training.heads.networks import Inputs
        from stages.training.text.fit import TextNetwork

        return TextNetwork(Inputs(self.inputs, blocks))
