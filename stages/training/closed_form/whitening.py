"""PCA whitening with shrinkage: principal components divided by a power of how much they vary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from stages.training.closed_form.eigen import SINGULAR, descending
from stages.training.closed_form.linear_map import LinearMapConfig, TrainingRows, check_dim, check_share
from stages.training.heads.inputs import Inputs


@dataclass(frozen=True)
class WhiteningHeadConfig(LinearMapConfig):
    """diag(l)^(-strength/2) V': eigenvalues l and eigenvectors V of the covariance. Labels are not used.

    ``strength`` in [0, 1]: 1 whitens, 0 is PCA (PCAw of the Met dataset: Ypsilantis et al., NeurIPS 2021).
    """

    strength: float = 1.0
    kind: Literal["whitening"] = "whitening"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("strength", self.strength)

    def _map(self, rows: TrainingRows) -> tuple[Inputs, Tensor]:
        inputs = rows.observed(self.inputs)
        check_dim(
            self.dim, min(inputs.dim, rows.classes.rows - 1), f"{rows.classes.rows:,} rows of {inputs.dim:,} numbers"
        )
        statistics = rows.statistics(inputs)
        values, vectors = descending(statistics.covariance())
        if self.strength == 0:
            return inputs, vectors[:, : self.dim].T
        varying = int((values > SINGULAR * values[0]).sum())
        check_dim(self.dim, varying, "the directions in which the features vary")
        return inputs, (vectors[:, : self.dim] * values[: self.dim].pow(-self.strength / 2)).T
