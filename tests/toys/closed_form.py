"""Features of unlike spreads, and every closed form on them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from stages.training import (
    AveragePoolHeadConfig,
    InputsConfig,
    LdaHeadConfig,
    LearnedWhiteningHeadConfig,
    PcaHeadConfig,
    RidgeHeadConfig,
    WhiteningHeadConfig,
    WithinHeadConfig,
)
from stages.training.closed_form.kinds import ClosedFormConfig
from stages.training.heads.networks import LinearHead

Floats = npt.NDArray[np.float64]

DIM, CLASSES, EACH = 12, 9, 8
PLAIN = InputsConfig(center=False, rescale="none")
CENTERED = InputsConfig(center=True, rescale="none")

ALL: list[ClosedFormConfig] = [
    AveragePoolHeadConfig(dim=5),
    LdaHeadConfig(dim=5),
    LearnedWhiteningHeadConfig(dim=5),
    PcaHeadConfig(dim=5),
    RidgeHeadConfig(dim=5),
    WhiteningHeadConfig(dim=5),
    WithinHeadConfig(dim=5),
]
TURNABLE = [config for config in ALL if config.kind != "average_pool"]


def name_of(config: ClosedFormConfig) -> str:
    return config.kind


def toy(seed: int = 0, *, sizes: tuple[int, ...] = (EACH,) * CLASSES, dim: int = DIM) -> tuple[torch.Tensor, ...]:
    """Features (N, D) float32 of unlike spreads, labels (N,) and domains (N,)."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    centres = rng.normal(size=(len(sizes), dim)) * np.linspace(2, 0.3, dim)
    rows = centres[labels] + rng.normal(size=(len(labels), dim)) @ (rng.normal(size=(dim, dim)) * 0.4) + 1
    return torch.from_numpy(rows.astype(np.float32)), torch.from_numpy(labels), torch.zeros(len(labels)).long()


def fit(config: ClosedFormConfig, rows: torch.Tensor, labels: torch.Tensor, domains: torch.Tensor) -> LinearHead:
    return config.fit(rows, labels, domains, [rows.shape[1]], seed=0)


def projected(head: LinearHead, rows: torch.Tensor) -> Floats:
    with torch.no_grad():
        return np.asarray(head.project(rows).double().numpy())


def similarities(vectors: Floats) -> Floats:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(unit @ unit.T)


def residuals(rows: Floats, labels: torch.Tensor) -> Floats:
    means = {label: rows[labels.numpy() == label].mean(0) for label in set(labels.tolist())}
    return np.stack([row - means[label] for row, label in zip(rows, labels.tolist(), strict=True)])
