"""One query of several terms: images, text, and gallery images that it is to be like or unlike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cache.errors import SettingsError
from stages.ranking.normalize import Vectors, unit_length

LIKE, UNLIKE = 1.0, -0.5
"""The weights of terms: what a query is to be unlike counts half, as two like pictures differ in little but noise."""


def combined(terms: npt.NDArray[np.generic], weights: Sequence[float]) -> Vectors:
    """The vector (1, E) of unit length in the direction of the weighed sum of ``terms`` (n, E), each of unit length.

    Raises SettingsError where no term has a weight above 0, and where they cancel out.

    >>> combined(np.array([[2.0, 0.0], [0.0, 5.0]]), [LIKE, LIKE]).round(3).tolist()
    [[0.7070000171661377, 0.7070000171661377]]
    """
    if not any(weight > 0 for weight in weights):
        raise SettingsError("a search needs something to be like: an image, text or the key of a gallery image")
    summed = np.asarray(weights, np.float64) @ unit_length(terms).astype(np.float64)
    if np.linalg.norm(summed) < 1e-6:
        raise SettingsError("the terms of the search cancel out: leave one out")
    return unit_length(summed[None])
