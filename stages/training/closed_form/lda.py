"""Linear discriminant analysis with shrinkage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from stages.training.closed_form.eigen import descending, inverse_root, shrunk
from stages.training.closed_form.linear_map import LinearMapConfig, TrainingRows, check_dim, check_share, check_within
from stages.training.heads.inputs import Inputs


@dataclass(frozen=True)
class LdaHeadConfig(LinearMapConfig):
    """The ``dim`` directions in which classes differ most for how much they vary within, each of unit variance within.

    ``shrinkage`` s in [0, 1] is that of scikit-learn's ``LinearDiscriminantAnalysis(solver="eigen")``: the covariance
    within classes and the one between them both become (1 - s) S + s (tr S / D) I.
    """

    shrinkage: float = 0.5
    kind: Literal["lda"] = "lda"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("shrinkage", self.shrinkage)

    def _map(self, rows: TrainingRows) -> tuple[Inputs, Tensor]:
        inputs = rows.observed(self.inputs)
        check_dim(
            self.dim,
            min(inputs.dim, rows.classes.count - 1),
            f"{rows.classes.count:,} classes in {inputs.dim:,} numbers",
        )
        check_within(rows.classes, inputs.dim, self.shrinkage)
        statistics = rows.statistics(inputs)
        root = inverse_root(shrunk(statistics.within(), self.shrinkage))
        between = shrunk(statistics.between(), self.shrinkage)
        _, vectors = descending(root.T @ between @ root)
        return inputs, (root @ vectors[:, : self.dim]).T
