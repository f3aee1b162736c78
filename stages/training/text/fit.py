"""Regularised canonical correlation of features and encoded sentences, chosen by combinations that were left out.

With X (N, D) and T (N, S) about their means, Sx = X'X/N + r_x tr(X'X)/(N D) I, St alike, and C = T'X/N::

    St^(-1/2) C Sx^(-1/2) = U diag(s) V'          the directions, and how far each correlates
    image map = Sx^(-1/2) V diag(s)^p             text map = St^(-1/2) U diag(s)^p

(Hotelling, Relations between two sets of variates, 1936; the ridge: Vinod, 1976.) The similarity of an image and a
sentence is the cosine of what they are mapped to. r_x, r_t and p are those of the best mMP@5 of sentences that no
image of the rest has, searching images that were left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cache.errors import RecordsError
from stages.ranking import values_by_class
from stages.training.heads.networks import FittedNetwork
from stages.training.losses.angle import normalize
from stages.training.text.kinds import TextHeadConfig
from stages.training.text.sentences import encode

_Array = npt.NDArray[np.float64]
_SMALL = 1e-6  # of a correlation that is none

# What is chosen among: how much of the mean variance is added to that of sentences and of features, and powers.
_RIDGES = [*product((0.03, 0.1, 0.3, 1.0), (0.3, 1.0, 3.0))]
_POWERS = (0.5, 1.0, 2.0)


class TextNetwork(FittedNetwork):
    """``image_mean`` (D,), ``image_map`` (D, E), ``text_mean`` (T,) and ``text_map`` (T, E), of what was fitted."""

    image_mean: Tensor
    image_map: Tensor
    text_mean: Tensor
    text_map: Tensor

    @property
    def dim(self) -> int:
        return int(self.image_map.shape[1])

    def transform(self, prepared: Tensor, dropout: torch.Generator | None = None) -> Tensor:
        del dropout
        return (prepared - self.image_mean) @ self.image_map

    def text(self, encoded: Tensor) -> Tensor:
        """The embeddings (B, E), of unit length, of ``encoded`` sentences (B, T)."""
        return normalize((encoded - self.text_mean) @ self.text_map)


def fit_text(
    config: TextHeadConfig, features: Tensor, sentences: Sequence[str], blocks: Sequence[int], seed: int
) -> tuple[TextNetwork, str]:
    """The head of ``features`` (N, D) whose images have ``sentences`` (N,), if any; and how it was chosen."""
    network = config.build(blocks, torch.Generator())
    rows = [row for row, sentence in enumerate(sentences) if sentence]
    network.observe(features[rows])
    images = network.inputs(features[rows]).double().numpy()
    numbers = {name: number for number, name in enumerate(dict.fromkeys(sentences[row] for row in rows))}
    if len(numbers) < 2 * config.folds:
        raise RecordsError(
            f"a text head is chosen by sentences that were left out, in {config.folds} folds of at least two: it takes "
            f"{2 * config.folds} different ones, and {len(numbers)} are made of the columns. Name more columns."
        )
    classes = np.array([numbers[sentences[row]] for row in rows])
    texts = encode(list(numbers)).astype(np.float64)
    ridges, power, score = _chosen(config, images, texts, classes, seed)
    maps = _Correlation(images, texts[classes]).maps(*ridges).weighed(power, config.dim)
    fitted = (torch.from_numpy(array.astype(np.float32)) for array in maps)
    network.fill(dict(zip(TextNetwork.__annotations__, fitted, strict=True)))
    summary = (
        f"text ridge {ridges[0]:g}, image ridge {ridges[1]:g}, power {power:g} by mMP@5 {score:.3f} of "
        f"{len(numbers):,} sentences that were left out"
    )
    return network, summary


def _chosen(
    config: TextHeadConfig, images: _Array, texts: _Array, classes: npt.NDArray[np.int64], seed: int
) -> tuple[tuple[float, float], float, float]:
    """The ridges and the power of the best mean over folds of the sentences, the first on a tie; and that mean."""
    fold = np.random.default_rng((seed, 2)).permutation(len(texts)) % config.folds
    scores = np.zeros((len(_RIDGES), len(_POWERS)))
    for number in range(config.folds):
        left = fold[classes] == number
        correlation = _Correlation(images[~left], texts[classes[~left]])
        wanted = np.flatnonzero(fold == number)
        for at, pair in enumerate(_RIDGES):
            maps = correlation.maps(*pair)
            for place, power in enumerate(_POWERS):
                image_mean, image_map, text_mean, text_map = maps.weighed(power, config.dim)
                asking, searched = (texts[wanted] - text_mean) @ text_map, (images[left] - image_mean) @ image_map
                values = values_by_class("mmp@5", asking, searched, wanted, classes[left])
                scores[at, place] += np.nanmean(values) / config.folds
    best, power = divmod(int(scores.argmax()), len(_POWERS))
    return _RIDGES[best], _POWERS[power], float(scores.max())


class _Maps(NamedTuple):
    image_mean: _Array
    image_map: _Array
    text_mean: _Array
    text_map: _Array
    correlations: _Array

    def weighed(self, power: float, dim: int) -> tuple[_Array, _Array, _Array, _Array]:
        """Means and maps of the first ``dim`` directions (0: of all that correlate), weighed by their correlation."""
        count = min(dim or len(self.correlations), int((self.correlations > _SMALL).sum()))
        weights = self.correlations[:count] ** power
        return self.image_mean, self.image_map[:, :count] * weights, self.text_mean, self.text_map[:, :count] * weights


class _Correlation:
    """The covariances of ``images`` (N, D) and ``texts`` (N, S), taken apart once for every pair of ridges."""

    def __init__(self, images: _Array, texts: _Array) -> None:
        self._means = images.mean(axis=0), texts.mean(axis=0)
        images, texts = images - self._means[0], texts - self._means[1]
        self._images, self._texts = (np.linalg.eigh(side.T @ side / len(side)) for side in (images, texts))
        self._between = self._texts[1].T @ (texts.T @ images / len(images)) @ self._images[1]

    def maps(self, text_ridge: float, image_ridge: float) -> _Maps:
        """The directions, by falling correlation."""
        images, texts = (
            1 / np.sqrt(np.maximum(values, 0) + ridge * values.mean())
            for (values, _), ridge in ((self._images, image_ridge), (self._texts, text_ridge))
        )
        white = texts[:, None] * self._between * images  # (S, D)
        squares, left = np.linalg.eigh(white @ white.T)  # S is small: several times as fast as its singular values
        squares, left = squares[::-1], left[:, ::-1]
        correlations = np.sqrt(np.maximum(squares, 0))
        right = white.T @ left / np.maximum(correlations, _SMALL)
        image_map, text_map = self._images[1] @ (images[:, None] * right), self._texts[1] @ (texts[:, None] * left)
        return _Maps(self._means[0], image_map, self._means[1], text_map, correlations)
