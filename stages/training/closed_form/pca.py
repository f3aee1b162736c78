"""Principal components of the features: the bar without labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from stages.training.closed_form.eigen import descending
from stages.training.closed_form.linear_map import LinearMapConfig, TrainingRows, check_dim
from stages.training.heads.inputs import Inputs


@dataclass(frozen=True)
class PcaHeadConfig(LinearMapConfig):
    """The ``dim`` directions in which the features vary most, as they are. Labels are not used."""

    kind: Literal["pca"] = "pca"

    def _map(self, rows: TrainingRows) -> tuple[Inputs, Tensor]:
        inputs = rows.observed(self.inputs)
        check_dim(
            self.dim, min(inputs.dim, rows.classes.rows - 1), f"{rows.classes.rows:,} rows of {inputs.dim:,} numbers"
        )
        statistics = rows.statistics(inputs)
        _, vectors = descending(statistics.covariance())
        return inputs, vectors[:, : self.dim].T
