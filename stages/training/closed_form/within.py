"""Within-class whitening: what varies among images of one class is made small, then principal components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from stages.training.closed_form.eigen import descending, inverse_root, shrunk
from stages.training.closed_form.ledoit_wolf import ledoit_wolf
from stages.training.closed_form.linear_map import LinearMapConfig, TrainingRows, check_dim, check_share, check_within
from stages.training.heads.inputs import Inputs


@dataclass(frozen=True)
class WithinHeadConfig(LinearMapConfig):
    """S^(-1/2), S the covariance within classes, then the ``dim`` principal components of what it makes of the rows.

    ``shrinkage`` s: S is (1 - s) S + s (tr S / D) I, with s in [0, 1] or after Ledoit and Wolf. Without shrinkage it is
    relevant component analysis (Shental et al., ECCV 2002).
    """

    shrinkage: float | Literal["ledoit_wolf"] = "ledoit_wolf"
    kind: Literal["within"] = "within"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shrinkage != "ledoit_wolf":
            check_share("shrinkage", self.shrinkage)

    def _map(self, rows: TrainingRows) -> tuple[Inputs, Tensor]:
        inputs = rows.observed(self.inputs)
        check_dim(self.dim, inputs.dim, f"features of {inputs.dim:,} numbers")
        given = None if self.shrinkage == "ledoit_wolf" else self.shrinkage
        check_within(rows.classes, inputs.dim, given)
        statistics = rows.statistics(inputs)
        shrinkage = ledoit_wolf(statistics, inputs, rows.features) if given is None else given
        root = inverse_root(shrunk(statistics.within(), shrinkage))
        _, vectors = descending(root.T @ statistics.covariance() @ root)
        return inputs, (root @ vectors[:, : self.dim]).T
