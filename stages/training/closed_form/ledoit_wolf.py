"""How much to shrink a covariance within classes: Ledoit and Wolf (2004), from sums."""

from __future__ import annotations

from torch import Tensor

from stages.training.closed_form.statistics import Statistics, blocks_of_rows
from stages.training.heads.inputs import Inputs


def ledoit_wolf(statistics: Statistics, inputs: Inputs, features: Tensor) -> float:
    """The shrinkage in [0, 1] of ``statistics.within()`` (D, D), rows of equal weight, towards (tr S / D) I.

    It is that of the N residuals of ``features`` (N, D), each less the mean of its class, their mean known to be zero
    (Journal of Multivariate Analysis 88). Besides the covariance it takes the mean fourth power of their lengths: a
    second pass.
    """
    fourth = 0.0
    for rows, of_row in blocks_of_rows(inputs, features, statistics.classes):
        residuals = rows.double() - statistics.shift - statistics.means[of_row]
        fourth += float(residuals.square().sum(1).square().sum())
    within = statistics.within()
    square = float(within.square().sum())
    level = float(within.trace()) / statistics.dim
    away = square - statistics.dim * level**2  # squared distance of S from the target
    noise = (fourth / statistics.classes.rows - square) / statistics.classes.rows  # expected squared error of S
    return 1.0 if away <= 0 else min(1.0, max(0.0, noise / away))
