"""Posteriors as an embedding: what each attribute may be, attribute by attribute, in closed form.

::

                        ridge onto the values of an attribute, softmax, unit length, times the root of its weight
    feature --inputs--> ... the same for every attribute                                            (the posteriors)
                        the leading principal axes of the feature, times the root of theirs         (the rest)

The similarity of two images is the sum over attributes of the weight times the cosine of their posteriors: an image
whose combination of attributes was never seen is found by each of them. Weights say what *similar* means, and are
no part of what is learned.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stages.training.heads.inputs import Inputs
from stages.training.heads.networks import FittedNetwork
from stages.training.losses.angle import normalize
from stages.training.multilabel.ridge import likeness


class PosteriorNetwork(FittedNetwork):
    """The regressions and what is made of them."""

    landmarks: Tensor  # (M, D) with ``rbf``, else none
    weight: Tensor  # (M or D, S), onto the S values of all attributes
    bias: Tensor  # (S,)
    sizes: Tensor  # how many values each attribute has (A,)
    several: Tensor  # (A,), 1 where an attribute has several values
    factors: Tensor  # the roots of the weights (A,)
    temperature: Tensor
    turn: Tensor  # (S, E) where posteriors have more than E dimensions
    axes: Tensor  # (D, R), the principal axes that fill the rest

    def __init__(self, inputs: Inputs, width: float) -> None:
        super().__init__(inputs)
        self.width = width

    @property
    def dim(self) -> int:
        return (self.turn.shape[1] if self.turn.numel() else len(self.bias)) + self.axes.shape[-1]

    def predict(self, prepared: Tensor) -> Tensor:
        """The predictions (B, S) of the regressions for prepared rows (B, D)."""
        rows = likeness(prepared, self.landmarks, self.width) if self.landmarks.numel() else prepared
        return rows @ self.weight + self.bias

    def posteriors(self, predicted: Tensor) -> Tensor:
        """The posteriors (B, S) of what is ``predicted`` (B, S), each attribute's as long as its factor."""
        parts = torch.split(predicted, self.sizes.tolist(), dim=1)
        posteriors = [
            normalize(part.clamp(0, 1) if several else torch.softmax(part / self.temperature, 1)) * factor
            for part, several, factor in zip(parts, self.several.tolist(), self.factors, strict=True)
        ]
        return torch.cat(posteriors, 1)

    def transform(self, prepared: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        del dropout
        posteriors = self.posteriors(self.predict(prepared))
        if self.turn.numel():
            posteriors = posteriors @ self.turn
        return torch.cat([posteriors, prepared @ self.axes], 1) if self.axes.numel() else posteriors
