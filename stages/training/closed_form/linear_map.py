"""What the closed forms share: the rows that they are computed from, and what they refuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from cache.errors import SettingsError
from stages.training.closed_form.statistics import Classes, Statistics, gather_statistics
from stages.training.heads.inputs import Inputs
from stages.training.heads.kinds import InputsConfig


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """What a closed form is computed from: ``features`` (N, D) of any float dtype, never copied whole.

    ``blocks`` are the sizes of the features that stand side by side, and ``seed`` is for what is drawn, if anything.
    """

    features: Tensor
    classes: Classes
    blocks: tuple[int, ...]
    seed: int

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, domains: Tensor, blocks: Sequence[int], seed: int) -> TrainingRows:
        """Rows of ``labels`` (N,) and ``domains`` (N,), integers. Raises ValueError where the shapes do not agree."""
        if features.ndim != 2 or features.shape[1] != sum(blocks) or len(features) < 2:
            raise SettingsError(
                f"features have shape {tuple(features.shape)}; a closed form takes two or more rows of "
                f"{' + '.join(map(str, blocks))} dimensions"
            )
        if not labels.shape == domains.shape == features.shape[:1]:
            raise SettingsError(
                f"{len(features):,} features have labels of shape {tuple(labels.shape)} and domains of shape "
                f"{tuple(domains.shape)}; each takes one integer a row"
            )
        return cls(features, Classes.of(labels, domains), tuple(blocks), seed)

    def observed(self, config: InputsConfig) -> Inputs:
        """The steps of ``config`` with the statistics of the features."""
        inputs = Inputs(config, self.blocks)
        inputs.observe(self.features)
        return inputs

    def statistics(self, inputs: Inputs, weights: Tensor | None = None) -> Statistics:
        """:func:`gather_statistics` of what ``inputs`` makes of the features."""
        return gather_statistics(inputs, self.features, self.classes, weights)


def check_dim(dim: int, most: int, why: str) -> None:
    """Raise ValueError where ``dim`` is more than ``most``, which ``why`` explains."""
    if dim > most:
        advice = f"set dim to {most:,} or less" if most > 0 else "there is nothing to fit"
        raise SettingsError(f"dim is {dim:,}, but {why} give at most {max(most, 0):,}: {advice}")


def check_within(classes: Classes, dim: int, shrinkage: float | None) -> None:
    """Raise ValueError where ``classes`` do not show how D = ``dim`` dimensions vary within, or too little unshrunk."""
    if classes.count == classes.rows:
        raise SettingsError(f"each of the {classes.count:,} classes has one row; how a class varies takes two or more")
    if shrinkage == 0 and (known := classes.rows - classes.count) < dim:
        raise SettingsError(
            f"{classes.rows:,} rows of {classes.count:,} classes vary within them in at most {known:,} of {dim:,} "
            'directions: shrink (kind = "within", "lda" or "discriminant", with shrinkage above 0), or take more rows'
        )
