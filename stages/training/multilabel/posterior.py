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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cache.errors import SettingsError
from stages.training.heads.inputs import Inputs
from stages.training.heads.kinds import InputsConfig
from stages.training.heads.network import HeadNetwork
from stages.training.losses.angle import normalize
from stages.training.multilabel.labels import AttributesConfig
from stages.training.multilabel.ridge import likeness

FITTED = ("landmarks", "weight", "bias", "sizes", "several", "factors", "temperature", "turn", "axes")


@dataclass(frozen=True)
class PosteriorHeadConfig:
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

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["posterior"] = "posterior"
    dim: int = 64
    weights: Mapping[str, float] = field(default_factory=dict)
    rest: tuple[float, ...] = (0.1,)
    judged: Literal["images", "classes"] = "images"
    kernel: Literal["linear", "rbf"] = "rbf"
    width: float = 1.0
    landmarks: int = 2048
    roots: tuple[float, ...] = (1.0, 0.5)
    penalties: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    temperatures: tuple[float, ...] = (0.1, 0.15, 0.2)
    attributes: AttributesConfig = AttributesConfig()
    inputs: InputsConfig = InputsConfig(unit=True, center=True, rescale="unit")

    def __post_init__(self) -> None:
        if self.dim < 0:
            raise SettingsError(f"dim is the size of an embedding, 0 for that of the posteriors, got {self.dim}")
        if self.inputs.root != 1:
            raise SettingsError(f"a posterior chooses among roots; set roots = [{self.inputs.root}], not inputs.root")
        if self.inputs.rescale != "unit":
            raise SettingsError(
                f"a posterior takes rows of unit length: inputs.rescale = 'unit', got {self.inputs.rescale!r}"
            )
        for name in ("roots", "penalties", "temperatures"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values) or not all(0 < value < math.inf for value in values):
                raise SettingsError(f"{name} holds one or more numbers above 0, each once, got {list(values)}")
        if max(self.roots) > 1:
            raise SettingsError(f"roots are exponents in (0, 1], got {list(self.roots)}")
        if not 0 < self.width < math.inf:
            raise SettingsError(f"width is a distance above 0, got {self.width}")
        if self.landmarks < 1:
            raise SettingsError(f"landmarks is a number of rows, at least 1, got {self.landmarks}")
        if self.judged not in ("images", "classes"):
            raise SettingsError(f"judged is images or classes, got {self.judged!r}")
        if not self.rest or len(set(self.rest)) < len(self.rest):
            raise SettingsError(f"rest holds one or more weights, each once, got {list(self.rest)}")
        named = [
            *(("rest", weight) for weight in self.rest),
            *((f"weights.{name}", weight) for name, weight in self.weights.items()),
        ]
        for name, weight in named:
            if not 0 <= weight < math.inf:
                raise SettingsError(f"{name} is a weight of at least 0, got {weight}")

    def build(self, blocks: Sequence[int], _generator: torch.Generator) -> PosteriorNetwork:
        """A head for features of the sizes ``blocks`` side by side, to be filled by ``load_state_dict``."""
        return PosteriorNetwork(Inputs(self.inputs, blocks), self.width)


class PosteriorNetwork(HeadNetwork):
    """The regressions and what is made of them; all are buffers, of the sizes of what was fitted or loaded.

    ``landmarks`` (M, D) with ``rbf`` and else none; ``weight`` (M or D, S) and ``bias`` (S,) onto the S values of all
    attributes; ``sizes`` (A,) of them; ``several`` (A,), 1 where an attribute has several values; ``factors`` (A,),
    the roots of the weights; ``temperature``; ``turn`` (S, E) where posteriors have more than E dimensions; ``axes``
    (D, R), the principal axes that fill the rest.
    """

    landmarks: Tensor
    weight: Tensor
    bias: Tensor
    sizes: Tensor
    several: Tensor
    factors: Tensor
    temperature: Tensor
    turn: Tensor
    axes: Tensor

    def __init__(self, inputs: Inputs, width: float) -> None:
        super().__init__(inputs)
        self.width = width
        for name in FITTED:
            self.register_buffer(name, torch.empty(0))

    @property
    def dim(self) -> int:
        """E."""
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
        """See :meth:`HeadNetwork.transform`."""
        del dropout
        posteriors = self.posteriors(self.predict(prepared))
        if self.turn.numel():
            posteriors = posteriors @ self.turn
        return torch.cat([posteriors, prepared @ self.axes], 1) if self.axes.numel() else posteriors

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in FITTED:
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name]))
        super()._load_from_state_dict(state_dict, prefix, *rest)
