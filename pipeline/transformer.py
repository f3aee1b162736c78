"""An encoder as a step of scikit-learn: images in, vectors out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from cache.errors import RecordsError, SettingsError
from pipeline.encoder import Encoder, Picture


class ImageEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Images (n,) to vectors (n, E) by a bundle, in a pipeline of scikit-learn. :meth:`fit` loads it and fits nothing.

    ``path`` is a bundle. With ``on_failure="nan"`` an image that cannot be encoded is a row of
    NaN.

    >>> from sklearn.base import clone
    >>> clone(ImageEncoder("bundle", batch_size=8)).get_params()
    {'batch_size': 8, 'device': 'cpu', 'on_failure': 'raise', 'path': 'bundle'}
    """

    def __init__(
        self,
        path: Path | str,
        *,
        device: str = "cpu",
        batch_size: int = 32,
        on_failure: Literal["raise", "nan"] = "raise",
    ) -> None:
        self.path = path
        self.device = device
        self.batch_size = batch_size
        self.on_failure = on_failure

    def fit(self, X: Any = None, y: Any = None) -> ImageEncoder:  # noqa: ARG002, N803 - scikit-learn's names
        """Load the networks; ``X`` and ``y`` are not looked at."""
        if self.on_failure not in ("raise", "nan"):
            raise SettingsError(f"on_failure is 'raise' or 'nan', got {self.on_failure!r}")
        self.encoder_ = Encoder.load(self.path, device=self.device, batch_size=self.batch_size)
        return self

    def transform(self, X: Sequence[Picture]) -> npt.NDArray[np.float32]:  # noqa: N803
        """The vectors (n, E) of the images ``X``, of unit length. Raises RecordsError, which names those that fail."""
        check_is_fitted(self, "encoder_")
        encoded = self.encoder_.encode(X)
        if encoded.failed and self.on_failure == "raise":
            first = encoded.failed[0]
            raise RecordsError(
                f"{len(encoded.failed):,} of {len(encoded.vectors):,} images cannot be encoded, first {first.name}: "
                f"{first.reason}. on_failure='nan' leaves rows of NaN."
            )
        return encoded.vectors

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:  # noqa: ARG002
        """``imageencoder0``, ``imageencoder1``, ..."""
        check_is_fitted(self, "encoder_")
        return np.array([f"imageencoder{number}" for number in range(self.encoder_.dim)], dtype=object)
